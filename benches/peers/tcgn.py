"""TCGN (Xiao et al. 2024) in PyTorch, for comparison: as published, its graphs as dense
matrices, and a rewrite that sends messages along edges.

    python benches/peers/tcgn.py

compares both with the golden cases `tcgn_eval`, `tcgn_eval_b1` and `tcgn_train`, and their
gradients with each other. Keys and order of the state are the published ones.

`published` computes the graph part as the published code does: sample by sample, with the
normalised adjacency of edges, (784, 784), as three dense products, and every layer's weights of
edges or nodes as a dense diagonal matrix between dense incidence matrices. The rewrite works on
the whole batch: nodes are few, so that between nodes a (196, 196) product is cheapest; between
edges it keeps a list of the pairs that share an end.
"""

import torch
from torch import nn
from torch.nn.functional import dropout, linear, relu, scaled_dot_product_attention

import golden
from golden import close, input_of, manifest, stored

HEADS = 2
EDGE = HEADS + 4
NODE = 48
EDGES_PER_NODE = 4


def image(tokens):
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def tokens(image):
    return image.flatten(2).transpose(1, 2)


def split(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def depthwise(channels, size, **options):
    return nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, **options)


class PatchEmbed(nn.Module):
    def __init__(self, inputs, outputs, patch):
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, patch, patch)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x):
        return self.norm(tokens(self.proj(x)))


class Attention(nn.Module):
    def __init__(self, width, heads, bias, reduction, published):
        super().__init__()
        self.heads, self.published = heads, published
        self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            conv = nn.Conv2d(width, width, reduction, reduction, groups=width)
            self.sr = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x, positions):
        small = tokens(self.sr(image(x))) if hasattr(self, "sr") else x
        q, k, v = (split(f(x), self.heads) for f, x in ((self.q, x), (self.k, small), (self.v, small)))
        if self.published:
            scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 + positions
            y = scores.softmax(dim=-1) @ v
        else:
            y = scaled_dot_product_attention(q, k, v, attn_mask=positions.unsqueeze(0))
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.GELU(), nn.BatchNorm2d(hidden))
        self.proj = depthwise(hidden, 3)
        self.proj_bn = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Sequential(nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        x = self.conv1(image(x))
        x = self.proj_bn(nn.functional.gelu(self.proj(x) + x))
        return tokens(self.conv2(x))


class Block(nn.Module):
    def __init__(self, width, hidden, heads, reduction, bias, eps, published):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, bias, reduction, published)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)
        self.proj = depthwise(width, 3)

    def forward(self, x, positions):
        pixels = image(x)
        x = tokens(self.proj(pixels) + pixels)
        x = x + self.attn(self.norm1(x), positions)
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    def __init__(self, width, heads, diagonal, drop, published):
        super().__init__()
        self.heads, self.diagonal, self.drop, self.published = heads, diagonal, drop, published
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        width, n = x.shape[2], x.shape[1]
        qkv = self.qkv(x).unflatten(2, (self.heads, width // self.heads, 3))
        q, k, v = qkv.permute(4, 0, 2, 1, 3)
        scale = width**-0.5
        rate = self.drop if self.training else 0.0
        if self.published:
            scores = torch.einsum("bhqd, bhkd -> bhqk", q, k)
            if self.diagonal:
                scores = scores + torch.diag_embed(torch.ones(scores.shape[:3]))
            weights = dropout((scores * scale).softmax(dim=-1), self.drop, self.training)
            y = torch.einsum("bhal, bhlv -> bhav", weights, v)
        else:
            mask = torch.eye(n) * scale if self.diagonal else None
            y = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, scale=scale)
        return y.transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    def __init__(self, width, heads, diagonal, drop, published):
        super().__init__()
        self.drop = drop
        self.layernorm1 = nn.LayerNorm(width)
        self.Attention = SelfAttention(width, heads, diagonal, drop, published)
        self.layernorm2 = nn.LayerNorm(width)
        wide = nn.Linear(width, 4 * width)
        self.FFN = nn.Sequential(wide, nn.GELU(), nn.Dropout(drop), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + dropout(self.Attention(self.layernorm1(x)), self.drop, self.training)
        return x + dropout(self.FFN(self.layernorm2(x)), self.drop, self.training)


class ChannelAttention(nn.Module):
    def __init__(self, nodes, drop, published):
        super().__init__()
        self.transformer = Encoder(nodes, 4, True, drop, published)

    def forward(self, x, graph):
        both = torch.concat((x, graph), dim=-1).transpose(-1, -2)
        return self.transformer(both).transpose(-1, -2).contiguous()[:, :, : x.shape[2]]


class LayerScaler(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x):
        return self.gamma[:, None, None] * x


class Bottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.block = nn.Sequential(
            depthwise(channels, 7, bias=False),
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        self.layer_scaler = LayerScaler(channels)

    def forward(self, x):
        return self.layer_scaler(self.block(x)) + x


def convnext(inputs, outputs, depth):
    halve = nn.Sequential(nn.GroupNorm(1, inputs), nn.Conv2d(inputs, outputs, 2, 2))
    return nn.Sequential(halve, *(Bottleneck(outputs) for _ in range(depth)))


class NodeAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.k, self.q, self.value_transform = (nn.Linear(width, width) for _ in range(3))

    def forward(self, keys, queries):
        q, k = split(self.q(queries), HEADS), split(self.k(keys), HEADS)
        scores = q @ k.transpose(-2, -1) / keys.shape[2] ** 0.5
        return self.value_transform(keys), (scores + torch.eye(q.shape[2])).softmax(dim=-1)


class Messages(nn.Module):
    """The weights of a layer between nodes or between edges."""

    def __init__(self, inputs, outputs, between):
        super().__init__()
        bound = outputs**-0.5
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
        self.p = nn.Parameter(torch.randn(1, between))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))


def grid_closeness(nodes):
    side = int(nodes**0.5)
    at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    at = at.flatten(0, 1).float()
    return 1 / (torch.cdist(at, at) / 3 + 1)


class Published:
    """The graph as dense matrices, made of one sample after the other."""

    def __init__(self, values, attention, closeness, quirks):
        batch, heads, nodes, _ = attention.shape
        mean = attention.mean(dim=1).flatten(1)
        count = EDGES_PER_NODE * nodes
        with torch.no_grad():
            lowest = lambda: torch.topk(mean, count, dim=-1)[0][:, count - 1].unsqueeze(-1)
            while quirks and (mean == lowest()).sum() != batch and count < nodes * nodes:
                count += 1
            kept = mean >= lowest()
        self.per_node = count / nodes
        adjacent = kept.float().view(batch, nodes, nodes)
        kept = kept.view(batch, nodes, nodes)

        scale = values.shape[2] // 2
        square = (values * values).sum(dim=-1, keepdim=True)
        apart = square - 2 * values @ values.transpose(1, 2) + square.transpose(1, 2)
        near = 1 / torch.sqrt((apart + scale) / scale)
        length = torch.sqrt(square)
        unit = values / length
        alike = (unit @ unit.transpose(1, 2) + 1) / 2
        all_features = [attention[:, h] for h in range(heads)]
        all_features += [mean.view(batch, nodes, nodes), closeness.expand(batch, -1, -1), near, alike]
        self.features = torch.stack([f[kept].view(batch, -1) for f in all_features], dim=-1)

        with torch.no_grad():
            # Ends of edges: 2 for an edge from a node to itself.
            self.ends = []
            for sample in adjacent:
                row, column = sample.nonzero(as_tuple=True)
                number = torch.arange(row.numel())
                ends = torch.sparse_coo_tensor(
                    torch.stack([torch.cat([row, column]), torch.cat([number, number])]),
                    torch.ones(2 * row.numel()),
                    (nodes, row.numel()),
                )
                self.ends.append(ends.coalesce())
            if quirks:
                self.ends.reverse()
            edges = adjacent.nonzero().view(batch, -1, 3)
            row, column = edges[:, :, 1, None], edges[:, :, 2, None]
            share = torch.zeros(batch, edges.shape[1], edges.shape[1])
            for a in (row, column):
                for b in (row, column):
                    share[a == b.transpose(1, 2)] = 1
            self.between_edges = self.normalised(share, 1.0)
            self.between_nodes = self.normalised(adjacent, 0.0)

    @staticmethod
    def normalised(matrix, itself):
        root = (matrix.sum(dim=-1) + itself) ** -0.5
        root = torch.diag_embed(torch.nan_to_num(root, nan=0.0, posinf=float("inf")))
        return root @ matrix @ root.transpose(-2, -1)

    @staticmethod
    def weighed(weights, matrix):
        itself = torch.eye(weights.shape[0])
        return (itself + (1 - itself) * weights) * matrix

    def nodes(self, layer, nodes, edges):
        def one(nodes, edges, ends, between):
            important = torch.diag((edges @ layer.p.t()).t()[0])
            weights = torch.sparse.mm(ends, important) @ ends.to_dense().t()
            return self.weighed(weights, between) @ (nodes @ layer.weight) + layer.bias

        return torch.stack([one(*s) for s in zip(nodes, edges, self.ends, self.between_nodes)])

    def edges(self, layer, nodes, edges):
        def one(nodes, edges, ends, between):
            important = torch.diag((nodes @ layer.p.t()).t()[0])
            weights = torch.sparse.mm(ends.t(), important) @ ends.to_dense()
            weighed = self.weighed(weights, between)
            weighed = weighed / weighed.max(0, keepdim=True)[0]
            return weighed @ (edges @ layer.weight) + layer.bias

        return torch.stack([one(*s) for s in zip(nodes, edges, self.ends, self.between_edges)])

    def pool(self, edges):
        ends = torch.stack([e.to_dense() for e in self.ends])
        return ends @ edges / self.per_node


class Sparse:
    """The graph as edges, and pairs of edges that share an end, of all samples at once."""

    def __init__(self, values, attention, closeness, _quirks):
        batch, heads, nodes, _ = attention.shape
        self.batch, self.count = batch, nodes
        mean = attention.mean(dim=1).flatten(1)
        with torch.no_grad():
            at = mean.topk(EDGES_PER_NODE * nodes, dim=-1)[1].sort(dim=-1)[0]
            row, column = at // nodes, at % nodes
            self.at, self.row, self.column = at, row, column
            self.itself = row == column
            degree = torch.zeros(batch, nodes).scatter_add_(1, row, torch.ones(row.shape))
            root = degree**-0.5
            # Only a node without edges has no root, and nothing is sent from or to it.
            self.root = root.gather(1, row) * root.gather(1, column)
            self.root = torch.nan_to_num(self.root, posinf=0.0)

            edges = row.shape[1]
            share = torch.zeros(batch, edges, edges, dtype=torch.bool)
            for a in (row, column):
                for b in (row, column):
                    share |= a[:, :, None] == b[:, None, :]
            root = (share.sum(dim=-1) + 1) ** -0.5
            sample, to, of = share.nonzero(as_tuple=True)
            self.to, self.of = sample * edges + to, sample * edges + of
            self.same = to == of
            row, column = row.flatten(), column.flatten()
            ends = lambda a, b: (a[self.to] == b[self.of]).float()
            # How often each end of the one is an end of the other.
            self.shared = [ends(a, row) + ends(a, column) for a in (row, column)]
            first = torch.arange(batch)[:, None] * nodes
            self.ends = [(e + first).flatten()[self.to] for e in (self.row, self.column)]
            self.pair_root = root.flatten()[self.to] * root.flatten()[self.of]

        scale = values.shape[2] // 2
        along = lambda x, i: x.gather(1, i[:, :, None].expand(-1, -1, x.shape[2]))
        a, b = along(values, self.row), along(values, self.column)
        near = torch.rsqrt(((a - b) ** 2).sum(dim=-1) / scale + 1)
        alike = (nn.functional.cosine_similarity(a, b, dim=-1) + 1) / 2
        strengths = [s.flatten(1).gather(1, at) for s in attention.unbind(1)]
        closeness = closeness.flatten()[at]
        self.features = torch.stack([*strengths, mean.gather(1, at), closeness, near, alike], dim=-1)

    def nodes(self, layer, nodes, edges):
        important = linear(edges, layer.p).squeeze(-1)
        square = torch.zeros(self.batch, self.count**2)
        between = square.scatter(1, self.at, important).view(-1, self.count, self.count)
        between = (between + between.transpose(1, 2)).flatten(1).gather(1, self.at)
        between = torch.where(self.itself, 1.0, between) * self.root
        matrix = square.scatter(1, self.at, between).view(-1, self.count, self.count)
        return matrix @ (nodes @ layer.weight) + layer.bias

    def edges(self, layer, nodes, edges):
        important = linear(nodes, layer.p).flatten()
        pairs = sum(important[e] * s for e, s in zip(self.ends, self.shared))
        pairs = torch.where(self.same, 1.0, pairs) * self.pair_root
        sent = (edges @ layer.weight).flatten(0, 1)
        largest = torch.zeros(sent.shape[0]).scatter_reduce(0, self.of, pairs, "amax")
        sent = sent / largest[:, None]
        y = torch.zeros_like(sent).index_add(0, self.to, pairs[:, None] * sent[self.of])
        return y.view(edges.shape[0], edges.shape[1], -1) + layer.bias

    def pool(self, edges):
        y = torch.zeros(self.batch, self.count, edges.shape[2])
        for end in (self.row, self.column):
            y = y.scatter_add(1, end[:, :, None].expand_as(edges), edges)
        return y / EDGES_PER_NODE


class CensNet(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.drop = drop
        self.gc1 = Messages(width, width, EDGE)
        self.gc2 = Messages(EDGE, 2 * EDGE, width)
        self.gc3 = Messages(width, NODE, 2 * EDGE)

    def forward(self, graph, x):
        after = lambda x: dropout(relu(x), self.drop, self.training)
        z = graph.features
        x = graph.nodes(self.gc1, x, z)
        x, z = after(x), after(z)
        z = graph.edges(self.gc2, x, z)
        x, z = after(x), after(z)
        return graph.nodes(self.gc3, x, z), z


class Fusion(nn.Module):
    def __init__(self, nodes, drop, published):
        super().__init__()
        self.edge_transformer = Encoder(2 * EDGE, HEADS, False, drop, published)
        self.node_transformer = Block(NODE, 4 * NODE, HEADS, 1, False, 1e-5, published)
        self.channel_attention_196 = Encoder(nodes, 4, False, drop, published)
        self.linear_fusion = nn.Linear(2 * EDGE + NODE, NODE)

    def forward(self, nodes, edges, positions):
        nodes = self.node_transformer(nodes, positions)
        both = torch.concat((nodes, self.edge_transformer(edges)), dim=-1)
        y = self.channel_attention_196(both.transpose(-1, -2)).transpose(-1, -2).contiguous()
        return self.linear_fusion(y)


class GraphBlock(nn.Module):
    def __init__(self, channels, patch, nodes, drop, published, quirks):
        super().__init__()
        width = 2 * channels
        self.graph, self.quirks = (Published if published else Sparse), quirks
        self.relative_pos = nn.Parameter(torch.randn(HEADS, nodes, nodes))
        self.patch_embedding = PatchEmbed(channels, width, patch)
        self.CMT_encoder1 = Block(width, 4 * width, HEADS, 1, False, 1e-5, published)
        if patch == 4:
            self.convnext1 = convnext(channels, channels, 2)
            self.convnext2 = convnext(channels, width, 1)
        else:
            self.convnext1 = convnext(channels, width, 2)
        self.MHSA = NodeAttention(width)
        self.censnet = CensNet(width, drop)
        self.transformer_fusion_encoder = Fusion(nodes, drop, published)
        self.register_buffer("closeness", grid_closeness(nodes), persistent=False)

    def forward(self, x):
        convolved = self.convnext1(x)
        if hasattr(self, "convnext2"):
            convolved = self.convnext2(convolved)
        encoded = self.CMT_encoder1(self.patch_embedding(x), self.relative_pos)
        values, attention = self.MHSA(tokens(convolved), encoded)
        graph = self.graph(values, attention, self.closeness, self.quirks)
        nodes, edges = self.censnet(graph, values)
        return self.transformer_fusion_encoder(nodes, graph.pool(edges), self.relative_pos)


class Tcgn(nn.Module):
    """The published sizes. `quirks`: what the published code does to a batch, see the model's
    README; only with `published`."""

    def __init__(self, published, genes=785, drop=0.1, quirks=False):
        super().__init__()
        widths, hidden = (46, 92, 184, 368), (165, 331, 662, 1324)
        heads, reductions, depths = (1, 2, 4, 8), (8, 4, 2, 1), (2, 2, 10, 2)
        stem, nodes, features = 16, 196, 1280
        for i, inputs in enumerate((3, stem, stem)):
            conv = nn.Conv2d(inputs, stem, 3, 1 if i else 2, 1)
            self.add_module(f"stem_conv{i + 1}", conv)
            self.add_module(f"stem_norm{i + 1}", nn.BatchNorm2d(stem))
        for stage, inputs, width in zip("abcd", (stem, *widths), widths):
            self.add_module(f"patch_embed_{stage}", PatchEmbed(inputs, width, 2))
        for i, stage in enumerate("abcd"):
            side = 56 >> i
            shape = (heads[i], side**2, (side // reductions[i]) ** 2)
            self.register_parameter(f"relative_pos_{stage}", nn.Parameter(torch.randn(shape)))
        for i, stage in enumerate("abcd"):
            sizes = (widths[i], hidden[i], heads[i], reductions[i], True, 1e-6, published)
            self.add_module(f"blocks_{stage}", nn.ModuleList(Block(*sizes) for _ in range(depths[i])))
        for i, patch in enumerate((4, 2)):
            block = GraphBlock(widths[i], patch, nodes, drop, published, quirks)
            self.add_module(f"gnn_block{i}", block)
            self.add_module(f"channel_attention{i}", ChannelAttention(nodes, drop, published))
        self._fc = nn.Conv2d(widths[3], features, 1)
        self._bn = nn.BatchNorm2d(features)
        self._drop = nn.Dropout(drop)
        wide = nn.Linear(features, 4 * features)
        self.head = nn.Sequential(wide, nn.GELU(), nn.Linear(4 * features, genes))

    def stage(self, letter, x):
        positions = getattr(self, f"relative_pos_{letter}")
        for block in getattr(self, f"blocks_{letter}"):
            x = block(x, positions)
        return x

    def forward(self, x):
        for i in "123":
            conv, norm = getattr(self, f"stem_conv{i}"), getattr(self, f"stem_norm{i}")
            x = norm(nn.functional.gelu(conv(x)))
        x = image(self.stage("a", self.patch_embed_a(x)))
        first = self.gnn_block0(x)
        x = image(self.stage("b", self.patch_embed_b(x)))
        second = self.gnn_block1(x)
        x = self.channel_attention0(self.patch_embed_c(x), first)
        x = self.channel_attention1(self.stage("c", x), second)
        x = self.stage("d", self.patch_embed_d(image(x)))
        x = nn.functional.silu(self._bn(self._fc(image(x))))
        return self.head(self._drop(x.mean(dim=(2, 3))))


def main():
    torch.manual_seed(0)
    state = manifest("tcgn_eval")["state"]
    values = golden.weights(state)

    def model(published, quirks):
        made = Tcgn(published, drop=0.0, quirks=quirks)
        shapes = {key: list(value.shape) for key, value in made.state_dict().items()}
        assert shapes == {key: shape for key, shape, *_ in state}, "other keys or shapes"
        made.load_state_dict(values)
        return made.to(memory_format=torch.channels_last)

    for case, kinds in (("tcgn_eval", [True]), ("tcgn_eval_b1", [True, False])):
        x = input_of(case, 0)
        for published in kinds:
            with torch.inference_mode():
                got = model(published, True).eval()(x)
            expected = stored(case)("output")
            close(f"{case}, {'published' if published else 'sparse'}", got, expected, 1e-4)

    x, target = (input_of("tcgn_train", i) for i in (0, 1))
    made = model(True, True).train()
    loss = nn.functional.mse_loss(made(x), target)
    close("tcgn_train, published, loss", loss.detach(), stored("tcgn_train")("losses")[0], 1e-4)

    gradients = []
    for published in (True, False):
        made = model(published, False).train()
        loss = nn.functional.mse_loss(made(x), target)
        named = dict(made.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()))
        gradients.append((loss.detach(), dict(zip(named, found))))
    (loss, dense), (sparse_loss, sparse) = gradients
    close("loss, sparse and published", sparse_loss, loss, 1e-5)
    scale = max(g.norm().item() for g in dense.values())
    for key, g in dense.items():
        # A bias before a batch norm has no gradient but rounding.
        error = (sparse[key] - g).norm().item()
        assert error <= 1e-2 * g.norm().item() + 1e-5 * scale, f"gradient of {key}: {error}"
    print(f"gradients of {len(dense)} parameters agree")


if __name__ == "__main__":
    main()
