"""Small models as people write them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GPTBlock(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.first(x)).split(c, dim=2)
        q, k, v = (y.view(b, n, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        if self.causal:
            att = att.masked_fill(torch.tril(torch.ones(n, n)) == 0, float("-inf"))
        att = F.dropout(F.softmax(att, dim=-1), 0.1, training=False)
        x = x + self.out((att @ v).transpose(1, 2).contiguous().view(b, n, c))
        return x + self.mlp(self.second(x))


class GPT(nn.Module):
    def __init__(self, vocabulary: int = 20, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.Sequential(GPTBlock(width), GPTBlock(width))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        return self.head(self.blocks(self.tokens(tokens) + self.places(places)))


class ViT(nn.Module):
    """Patches, a class token, one block with packed projections, as in timm."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        y = (attention.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)
        return self.head((x + self.out(y))[:, 0])


def rotated(x: Tensor) -> Tensor:
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)


def repeat_kv(x: Tensor, times: int) -> Tensor:
    b, heads, n, d = x.shape
    return x[:, :, None, :, :].expand(b, heads, times, n, d).reshape(b, heads * times, n, d)


class LlamaAttention(nn.Module):
    """Rotary positions, grouped queries, softmax in float32, an additive mask of the type's least number."""

    def __init__(self, width: int = 32, heads: int = 4, kv_heads: int = 2) -> None:
        super().__init__()
        self.dim, self.groups = width // heads, heads // kv_heads
        self.q_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.dim, bias=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (proj(x).view(b, n, -1, self.dim).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        angles = torch.arange(n)[:, None] / 100 ** (torch.arange(0, self.dim, 2) / self.dim)
        cos, sin = (torch.cat((f(angles), f(angles)), -1)[None, None] for f in (torch.cos, torch.sin))
        q, k = q * cos + rotated(q) * sin, k * cos + rotated(k) * sin
        k, v = repeat_kv(k, self.groups), repeat_kv(v, self.groups)
        least = torch.finfo(x.dtype).min
        mask = torch.triu(torch.full((n, n), least), diagonal=1)[None, None].expand(b, 1, n, n)
        mask = mask.masked_fill((mask == 0) & (padding[:, None, None, :] == 0), least)
        weights = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.dim) + mask
        weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
        weights = nn.functional.dropout(weights, p=0.0, training=self.training)
        y = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.o_proj(y.reshape(b, n, -1))
