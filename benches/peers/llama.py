"""llama.cpp with a Qwen3 checkpoint: the GGUF file, and the engine through its C interface.

llama.cpp does not pad: the texts of a batch are separate sequences. While it embeds, it also
computes the logits of every token; that is how it works, and it is measured that way.
"""

import numpy as np

from exports import once

TYPES = {"f16": "F16", "q8": "Q8_0"}


def gguf_file(checkpoint, precision):
    """The checkpoint as GGUF, without a vocabulary, because only token ids are passed."""

    def make(path):
        import gguf
        import torch
        from safetensors.torch import load_file

        writer = gguf.GGUFWriter(path, "qwen3")
        describe(writer, checkpoint.config, gguf)
        names = gguf.get_tensor_name_map(
            gguf.MODEL_ARCH.QWEN3, checkpoint.config["num_hidden_layers"]
        )
        kind = gguf.GGMLQuantizationType[TYPES[precision]]
        for key, value in load_file(checkpoint.file("model.safetensors")).items():
            key = key if key.startswith("model.") else "model." + key
            name = names.get_name(key, try_suffixes=(".weight",))
            if name is None:
                raise ValueError(f"{key}: GGUF has no name for this tensor")
            values = value.to(torch.float32).numpy()
            if values.ndim == 1:
                writer.add_tensor(name, values)
            else:
                writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return once(checkpoint.own(f"model.{precision}.gguf"), make)


def describe(writer, config, gguf):
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or rope["rope_theta"])
    writer.add_pooling_type(gguf.PoolingType.LAST)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


class Llama:
    """A function of ids and mask, like the engines in peers.py."""

    TEXTS, TOKENS = 64, 4096  # maximum per batch

    def __init__(self, checkpoint, precision, threads):
        import llama_cpp

        self.checkpoint, self.llama = checkpoint, llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        path = gguf_file(checkpoint, precision).encode()
        self.model = llama_cpp.llama_model_load_from_file(
            path, llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = self.TOKENS
        options.n_seq_max, options.kv_unified = self.TEXTS, True
        options.n_threads = options.n_threads_batch = threads
        options.embeddings, options.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_LAST
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.model or not self.context:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.batch = llama_cpp.llama_batch_init(self.TOKENS, 0, 1)

    def __call__(self, ids, mask):
        llama, context, batch = self.llama, self.context, self.batch
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        batch.n_tokens = 0
        for text, (row, length) in enumerate(zip(ids.tolist(), mask.sum(1).tolist())):
            for position in range(length):
                at = batch.n_tokens
                batch.token[at], batch.pos[at] = row[position], position
                batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, text, True
                batch.n_tokens += 1
        code = llama.llama_decode(context, batch)
        if code:
            raise RuntimeError(f"llama_decode: {code}")
        width = self.checkpoint.config["hidden_size"]
        rows = [llama.llama_get_embeddings_seq(context, i) for i in range(len(ids))]
        return np.stack([np.ctypeslib.as_array(row, (width,)).copy() for row in rows])
