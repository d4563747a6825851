"""Plain numpy float64 reference of a Llama checkpoint, and a reader and writer of safetensors. For goldens, not for speed."""
import json
import os
import struct

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def write_safetensors(path, tensors, metadata=None):
    """`tensors`: name -> array; uint16 arrays are bfloat16 bits. Written in the given order, header padded to 8 bytes."""
    header, offset = {"__metadata__": metadata or {"format": "pt"}}, 0
    names = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.uint16): "BF16"}
    for name, array in tensors.items():
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read_safetensors(path):
    data = open(path, "rb").read()
    length, = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(data[8 + length + begin:8 + length + end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = to_float(array) if entry["dtype"] == "BF16" else array
    return tensors


def to_bf16(array):
    """bfloat16 bits of float32 values, nearest even."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Llama:
    """Rotary positions without scaling, grouped KV heads, SwiGLU; every operation in float64 on the stored weights."""

    def __init__(self, folder):
        self.config = json.load(open(os.path.join(folder, "config.json")))
        files = sorted(f for f in os.listdir(folder) if f.endswith(".safetensors"))
        self.weights = {k: v.astype(np.float64) for f in files for k, v in read_safetensors(os.path.join(folder, f)).items()}
        c = self.config
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.inv_freq = c["rope_theta"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        self.reset()

    def reset(self):
        self.keys = [np.zeros((0, self.kv_heads, self.head_dim)) for _ in range(self.config["num_hidden_layers"])]
        self.values = list(self.keys)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * self.weights[name]

    def rotate(self, x, positions):
        angle = positions[:, None, None] * self.inv_freq
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def forward(self, ids):
        """Appends `ids` to the context; returns the logits [len(ids), vocab]."""
        past = len(self.keys[0])
        positions = np.arange(past, past + len(ids))
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            x = self.block(x, positions, layer)
        x = self.norm(x, "model.norm.weight")
        return x @ self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"]).T

    def block(self, x, positions, layer):
        w = lambda name: self.weights[f"model.layers.{layer}.{name}.weight"]
        h = self.norm(x, f"model.layers.{layer}.input_layernorm.weight")
        q, k, v = ((h @ w(f"self_attn.{p}_proj").T).reshape(len(h), -1, self.head_dim) for p in "qkv")
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        self.keys[layer] = np.concatenate([self.keys[layer], k])
        self.values[layer] = np.concatenate([self.values[layer], v])
        group = self.heads // self.kv_heads
        masked = np.arange(len(self.keys[layer]))[None, :] > positions[:, None]
        out = np.empty_like(q)
        for head in range(self.heads):
            scores = q[:, head] @ self.keys[layer][:, head // group].T / np.sqrt(self.head_dim)
            scores = np.where(masked, -np.inf, scores)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = scores / scores.sum(-1, keepdims=True) @ self.values[layer][:, head // group]
        x = x + out.reshape(len(x), -1) @ w("self_attn.o_proj").T
        h = self.norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = h @ w("mlp.gate_proj").T
        return x + (gate / (1 + np.exp(-gate)) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
