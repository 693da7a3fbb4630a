"""What the peers compute with, created from a checkpoint on first use: ONNX, its 8-bit forms, GGUF.
"""

import os

import numpy as np

SAMPLES = ([64] * 16, 16)  # lengths of the texts from which 8-bit scales are determined


def hidden_model(checkpoint, dtype, attention):
    """The model in transformers."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if checkpoint.scores else AutoModel
    model = kind.from_pretrained(
        checkpoint.for_peers, dtype=dtype, attn_implementation=attention, local_files_only=True
    )
    model.config.use_cache = False
    return model.eval()


def of(checkpoint, output):
    """The part of transformers' output from which the results are computed."""
    return output.logits if checkpoint.scores else output.last_hidden_state


def traced(checkpoint):
    """The model as one function of ids and mask, with an example."""
    import torch

    model = hidden_model(checkpoint, torch.float32, "eager")

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return of(checkpoint, self.model(input_ids=input_ids, attention_mask=attention_mask))

    ids = torch.randint(checkpoint.vocab // 4, checkpoint.vocab - 200, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return Hidden().eval(), (ids, mask)


def once(path, make):
    """Creates `path` under another name first, so that the file is complete if it exists."""
    if not os.path.exists(path):
        folder = path + ".part"
        os.makedirs(folder, exist_ok=True)
        make(os.path.join(folder, os.path.basename(path)))
        for name in os.listdir(folder):
            if name != os.path.basename(path):
                os.replace(os.path.join(folder, name), os.path.join(os.path.dirname(path), name))
        os.replace(os.path.join(folder, os.path.basename(path)), path)
        os.rmdir(folder)
    return path


def onnx(checkpoint):
    def make(path):
        import torch

        model, example = traced(checkpoint)
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
        with torch.inference_mode():
            torch.onnx.export(
                model,
                example,
                path,
                input_names=["input_ids", "attention_mask"],
                output_names=["hidden"],
                dynamic_shapes=(axes, axes),
                external_data=True,
                dynamo=True,
            )

    return once(checkpoint.own("model.onnx"), make)


def onnx_int8(checkpoint):
    """ONNX Runtime's own way for transformers: weights are quantized beforehand, inputs while
    computing.
    """

    def make(path):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            onnx(checkpoint),
            path,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )

    return once(checkpoint.own("model.int8.onnx"), make)


def openvino_int8(checkpoint):
    """OpenVINO's own way: weights and inputs are quantized with scales that are determined from
    samples.
    """

    def make(path):
        import nncf
        import openvino as ov

        texts = checkpoint.ids(SAMPLES[0])
        samples = [{"input_ids": t[None], "attention_mask": np.ones_like(t[None])} for t in texts]
        model = nncf.quantize(
            ov.Core().read_model(onnx(checkpoint)),
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=SAMPLES[1],
        )
        ov.save_model(model, path, compress_to_fp16=False)

    return once(checkpoint.own("openvino.int8.xml"), make)
