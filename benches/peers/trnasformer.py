"""tRNAsformer (Alsaafin et al. 2023) in PyTorch, for comparison.

    python benches/peers/trnasformer.py

compares it with the golden cases `trnasformer_eval_d2` and `trnasformer_train_d2_k10`. Keys of
the state are the published ones.

`published` evaluates as the published code does: the gene convolution, a mask and a top-k of
their own for each of the six numbers of tiles. Without it scores are computed and sorted once.
"""

import torch
from torch import nn

import golden
from golden import close, input_of, manifest, stored

KS = (1, 2, 5, 10, 20, 49)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(1, width, 32, 32)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Trnasformer(nn.Module):
    def __init__(self, depth, genes=31_793, classes=3, width=384, heads=6, drop=0.25, published=True):
        super().__init__()
        self.published = published
        self.patch_embed = PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 50, width))
        self.dropout = nn.Dropout(drop)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.conv = nn.Conv1d(width, genes, 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def genes_at(self, tiles, k):
        """Of tiles (B, E, 49)."""
        mask = (tiles.max(dim=1, keepdim=True)[0] > 0).float()
        scores = self.conv(self.dropout(tiles)) * mask
        highest = torch.topk(scores, k, dim=2)[0]
        return (highest * mask[:, :, :k]).sum(dim=2) / mask[:, :, :k].sum(dim=2)

    def genes_at_all(self, tiles):
        """The same for all numbers of tiles from one order. No mask: a normalised token is
        nowhere negative in every channel."""
        sums = self.conv(tiles).sort(dim=2, descending=True)[0].cumsum(dim=2)
        return sum(sums[:, :, k - 1] / k for k in KS) / len(KS)

    def forward(self, x, k=None):
        """Genes, from `k` tiles or as in evaluation, and logits."""
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        tiles = x[:, 1:].transpose(2, 1)
        if k is not None:
            genes = self.genes_at(tiles, k)
        elif self.published:
            genes = sum(self.genes_at(tiles, k) / len(KS) for k in KS)
        else:
            genes = self.genes_at_all(tiles)
        return genes, self.head(x[:, 0])


def loss(model, x, genes, labels, k):
    predicted, logits = model(x, k)
    mse = nn.functional.mse_loss(predicted, genes)
    return 0.5 * mse + nn.functional.cross_entropy(logits, labels)


def main():
    def model(case, published=True):
        state = manifest(case)["state"]
        made = Trnasformer(2, genes=512, drop=0.0, published=published)
        shapes = {key: list(value.shape) for key, value in made.state_dict().items()}
        assert shapes == {key: shape for key, shape, *_ in state}, "other keys or shapes"
        made.load_state_dict(golden.weights(state))
        return made

    case = "trnasformer_eval_d2"
    for published in (True, False):
        with torch.inference_mode():
            genes, logits = model(case, published).eval()(input_of(case, 0))
        what = f"{case}, {'published' if published else 'once'}"
        close(f"{what}, genes", genes, stored(case)("gene_preds"), 1e-5)
        close(f"{what}, logits", logits, stored(case)("class_logits"), 1e-5)
    case = "trnasformer_train_d2_k10"
    labels = torch.tensor(manifest(case)["labels"])
    got = loss(model(case).train(), input_of(case, 0), input_of(case, 1), labels, 10)
    close(f"{case}, loss", got.detach(), stored(case)("losses")[0], 1e-4)


if __name__ == "__main__":
    main()
