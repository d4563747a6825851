"""The demo model in PyTorch: plain Llama, with positions and an additive attention bias of the caller's."""
import numpy as np
import torch
import torch.nn.functional as F


MATCH = 1.5


class Net(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config
        d, h, m = c["head_dim"], c["hidden_size"], c["intermediate_size"]
        q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
        shapes = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
        for i in range(c["num_hidden_layers"]):
            shapes.update({f"model.layers.{i}.{name}.weight": shape for name, shape in {
                "input_layernorm": (h,), "self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
                "self_attn.o_proj": (h, q), "post_attention_layernorm": (h,), "mlp.gate_proj": (m, h), "mlp.up_proj": (m, h),
                "mlp.down_proj": (h, m)}.items()})
        self.names = list(shapes)
        quiet = 0.1  # what layers add at first, beside embeddings of 0.05
        scale = lambda n, s: 0.05 if "embed" in n else s[1] ** -0.5 * (quiet if "o_proj" in n or "down" in n else 1)
        self.weights = torch.nn.ParameterList(
            torch.ones(s) if len(s) == 1 else torch.randn(s) * scale(n, s) for n, s in shapes.items())

        self.look_back()

    @torch.no_grad()
    def look_back(self):
        """A beginning that knows what n-grams are; training finds the like by itself, but takes most of its time for it.

        First layer: head h attends to the token h + 1 before its own, whatever that is: one component of the embeddings is
        the same for all tokens, and from it every query and key gets a fixed part, the query's rotated back by h + 1
        positions. What it finds goes to a place of the residual stream of its own.
        Second layer: in the components that barely rotate, the first head's query holds the tokens 0, 1, 2, 3 back, its key
        those 1, 2, 3, 4 back: it attends to tokens before which stood what now stands."""
        c, t = self.config, self.tensors()
        d, heads, groups = c["head_dim"], c["num_attention_heads"], c["num_attention_heads"] // c["num_key_value_heads"]
        part = torch.zeros(d // 2)
        part[:6] = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.5, 0.5]).sqrt()
        embedding = t["model.embed_tokens.weight"]
        embedding[:, 0] = 0.15
        spread = embedding.square().mean().sqrt()
        part *= (1.8 * d ** 0.5) ** 0.5 / (0.15 / spread)
        w = lambda layer, name: t[f"model.layers.{layer}.self_attn.{name}_proj.weight"]
        q, k, v, o = (w(0, p) for p in "qkvo")
        q *= 0.3
        k *= 0.3
        rank = 24
        places = torch.linalg.qr(torch.randn(c["hidden_size"], c["hidden_size"]))[0][:, :heads * rank].split(rank, 1)
        read = torch.linalg.qr(torch.randn(c["hidden_size"], c["hidden_size"]))[0][:rank]
        read[:, 0] = 0
        v *= 0.3
        o *= 0.3
        for head in range(heads):
            cos, sin = self.angles(torch.tensor(-(head + 1)))
            q[head * d:(head + 1) * d, 0] = torch.cat([part * cos[:d // 2], part * sin[d // 2:]])
            k[head // groups * d:(head // groups + 1) * d, 0] = torch.cat([part, torch.zeros(d // 2)])
            v[head // groups * d:head // groups * d + rank] = read
            o[:, head * d:head * d + rank] = 2 * spread * places[head]
        still = torch.nonzero(c["rope_theta"] ** (-torch.arange(0, d, 2) / d) < 1.5e-5)[:, 0]
        still = torch.cat([still, still + d // 2])
        q, k = w(1, "q"), w(1, "k")
        for slot in range(heads):
            mix = torch.randn(len(still), rank) * len(still) ** -0.5
            k[still] += mix @ places[slot].T * MATCH
            q[still] += mix @ (places[slot - 1].T if slot else read) * MATCH

    def tensors(self):
        return dict(zip(self.names, self.weights))

    def angles(self, positions):
        d = self.config["head_dim"]
        inverse = self.config["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angle = positions[..., None].double() * inverse
        return torch.cat([angle.cos()] * 2, -1).float(), torch.cat([-angle.sin(), angle.sin()], -1).float()

    def forward(self, ids, positions, bias, wanted):
        """Hidden states after the last norm at the flat indices `wanted`."""
        c, t = self.config, self.tensors()
        d, eps = c["head_dim"], c["rms_norm_eps"]
        cos, sin = (a[:, None] for a in self.angles(positions))
        rotate = lambda x: x * cos + torch.roll(x, d // 2, -1) * sin
        x = F.embedding(ids, t["model.embed_tokens.weight"])
        grouped = c["num_attention_heads"] != c["num_key_value_heads"]
        for i in range(c["num_hidden_layers"]):
            w = lambda name: t[f"model.layers.{i}.{name}.weight"]
            h = F.rms_norm(x, x.shape[-1:], w("input_layernorm"), eps)
            q, k, v = (F.linear(h, w(f"self_attn.{p}_proj")).unflatten(-1, (-1, d)).transpose(1, 2) for p in "qkv")
            out = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=bias, enable_gqa=grouped)
            x = x + F.linear(out.transpose(1, 2).flatten(2), w("self_attn.o_proj"))
            h = F.rms_norm(x, x.shape[-1:], w("post_attention_layernorm"), eps)
            x = x + F.linear(F.silu(F.linear(h, w("mlp.gate_proj"))) * F.linear(h, w("mlp.up_proj")), w("mlp.down_proj"))
        x = x.flatten(0, 1)[wanted]
        return F.rms_norm(x, x.shape[-1:], t["model.norm.weight"], eps)

    @torch.no_grad()
    def read(self, ids, past=None, rows=1024):
        """Logits of tokens that follow `past`, a list of (keys, values) of each layer as returned here before: (logits, all
        keys and values). Without `past` a text begins; of that no logits are computed (None)."""
        c, t = self.config, self.tensors()
        d, eps, layers = c["head_dim"], c["rms_norm_eps"], c["num_hidden_layers"]
        before, tokens = past[0][0].shape[1] if past else 0, len(ids)
        cos, sin = self.angles(torch.arange(before, before + tokens))
        rotate = lambda x: x * cos + torch.roll(x, d // 2, -1) * sin
        grouped = c["num_attention_heads"] != c["num_key_value_heads"]
        x, held = F.embedding(torch.as_tensor(ids), t["model.embed_tokens.weight"]), []
        for i in range(layers):
            w = lambda name: t[f"model.layers.{i}.{name}.weight"]
            h = F.rms_norm(x, x.shape[-1:], w("input_layernorm"), eps)
            q, k, v = (F.linear(h, w(f"self_attn.{p}_proj")).unflatten(-1, (-1, d)).transpose(0, 1) for p in "qkv")
            q, k = rotate(q), rotate(k)
            if past:
                k, v = torch.cat([past[i][0], k], 1), torch.cat([past[i][1], v], 1)
            held.append((k, v))
            if not past and i == layers - 1:
                return None, held
            parts = []
            for begin in range(0, tokens, rows):
                end = min(tokens, begin + rows)
                mask = torch.ones(end - begin, before + end, dtype=torch.bool).tril_(before + begin)
                parts.append(F.scaled_dot_product_attention(
                    q[None, :, begin:end], k[None, :, :before + end], v[None, :, :before + end], attn_mask=mask, enable_gqa=grouped)[0])
            x = x + F.linear(torch.cat(parts, 1).transpose(0, 1).flatten(1), w("self_attn.o_proj"))
            h = F.rms_norm(x, x.shape[-1:], w("post_attention_layernorm"), eps)
            x = x + F.linear(F.silu(F.linear(h, w("mlp.gate_proj"))) * F.linear(h, w("mlp.up_proj")), w("mlp.down_proj"))
        return self.logits(F.rms_norm(x, x.shape[-1:], t["model.norm.weight"], eps)), held

    def logits(self, hidden):
        return F.linear(hidden, self.tensors()["model.embed_tokens.weight"])


def attention_bias(count, near):
    """[rows, 1, tokens, tokens]: causal; a key farther than `near` tokens counts exp(count) times."""
    tokens = count.shape[1]
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    bias = torch.where(distance > near, count[:, None, :], 0.0)
    return bias.masked_fill_(distance < 0, -torch.inf)[:, None]
