"""Makes transformers compute everything in float64.

transformers 5.24.0 computes some steps in float32 for every dtype of the model: the RMS norm and
the softmax of Qwen, the softmax and the rotation of ModernBERT, and the angles of every rotary
embedding. A float64 reference would then be wrong by up to 2e-6 on unit vectors, which is as much
as the engine is allowed. `install` replaces these steps by the same formulas in float64; everything
else stays transformers' own code.
"""

import torch


def _norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def _attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def _rotate_half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _rotate(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin


def _angles(self, x, position_ids, layer_type=None):
    rope = self.config.rope_parameters[layer_type] if layer_type else self.config.rope_parameters
    size = (
        getattr(self.config, "head_dim", None)
        or self.config.hidden_size // self.config.num_attention_heads
    )
    frequencies = float(rope["rope_theta"]) ** (
        -torch.arange(0, size, 2, dtype=torch.float64) / size
    )
    if rope["rope_type"] == "linear":
        frequencies = frequencies / rope["factor"]
    elif rope["rope_type"] != "default":
        raise ValueError(f"no exact angles for rope_type {rope['rope_type']}")
    angles = position_ids[..., None].double() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def install():
    from transformers.models.gte import modeling_gte as gte
    from transformers.models.modernbert import modeling_modernbert as modernbert
    from transformers.models.qwen2 import modeling_qwen2 as qwen2
    from transformers.models.qwen3 import modeling_qwen3 as qwen3

    for module in (gte, modernbert, qwen2, qwen3):
        module.eager_attention_forward = _attention
        module.apply_rotary_pos_emb = _rotate
    gte.GteRotaryEmbedding.forward = _angles
    modernbert.ModernBertRotaryEmbedding.forward = _angles
    qwen2.Qwen2RotaryEmbedding.forward = _angles
    qwen3.Qwen3RotaryEmbedding.forward = _angles
    qwen2.Qwen2RMSNorm.forward = _norm
    qwen3.Qwen3RMSNorm.forward = _norm
