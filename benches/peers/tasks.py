"""One piece of work by one peer, timed when asked.

    python tasks.py TASK PEER --threads 2

Prints `ready` when the work is set up, checked and warm. Then for each number N
that comes on a line of standard input it does the work N times and prints the
milliseconds of each. `compare.py` starts one of these for each peer, so that their
thread pools do not meet and a peer that waits does nothing.

The tasks are the benches of the same names, of models without their `model/`;
weights and inputs are random, which times do not depend on. Everything computes in
f32.
"""

import argparse
import io
import re
import statistics
import sys
import time

import torch
from torch import nn

import trnasformer
from tcgn import Tcgn

LEARNING_RATE = 1e-4


def network(name, classes=1000):
    import torchvision

    model = getattr(torchvision.models, name)(weights=None, num_classes=classes)
    return model.to(memory_format=torch.channels_last)


def images(batch):
    return torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)


def resnet50_features():
    model = network("resnet50").eval()
    model.fc = nn.Identity()
    return model, images(16)


def densenet121_features():
    model = network("densenet121").eval()
    model.classifier = nn.Identity()
    return model, images(8)


def autoencoder():
    model = nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 2048), nn.ReLU())
    x = torch.randn(64, 2048).abs()
    return model, lambda: nn.functional.mse_loss(model(x), x)


def mlp(samples=16, tiles=16, genes=4096):
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, genes))
    x = torch.randn(samples, tiles, 512).abs()
    y = torch.randn(samples, genes)
    return model, lambda: nn.functional.mse_loss(model(x).mean(dim=1), y)


def resnet18():
    model = network("resnet18", classes=9).train()
    x, labels = images(8), torch.arange(8) % 9
    return model, lambda: nn.functional.cross_entropy(model(x), labels)


def betavae(batch=128, genes=19_198, latent=2048):
    """RNA-GAN's beta-VAE at its published sizes, without the dropout on the profile."""

    def layers(*widths):
        pairs = zip(widths, widths[1:])
        made = [[nn.Linear(i, o), nn.BatchNorm1d(o), nn.LeakyReLU(0.01)] for i, o in pairs]
        return [module for layer in made for module in layer]

    encoder = nn.Sequential(*layers(genes, 6000, 4000, latent))
    decoder = nn.Sequential(*layers(latent, 4000, 6000), nn.Linear(6000, genes), nn.Tanh())
    model = nn.ModuleList([encoder, nn.Linear(latent, latent), nn.Linear(latent, latent), decoder])
    x, noise = torch.randn(batch, genes), torch.randn(batch, latent)

    def loss():
        hidden = encoder(x)
        mean, logvar = model[1](hidden), model[2](hidden)
        y = decoder(mean + noise * (0.5 * logvar).exp())
        divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(dim=1).mean()
        return nn.functional.mse_loss(y, x) + 5e-4 * divergence

    return model, loss


def rnagan(fused, batch=8, latent=2048, widths=(64, 128, 256, 512, 1024, 2048)):
    """An iteration of RNA-GAN's published trainer at 256 px: the steps of generator, critic and
    penalty, each with its own pass of the generator. Latents are given."""

    def normed(conv, channels):
        return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.LeakyReLU(0.2))

    def up(i, o, bias=False):
        return nn.ConvTranspose2d(i, o, 4, 2, 1, bias=bias)

    def down(i, o):
        return nn.Conv2d(i, o, 4, 2, 1, bias=False)

    pairs = list(zip(widths, widths[1:]))
    first = normed(nn.ConvTranspose2d(latent, widths[-1], 4, bias=False), widths[-1])
    inner = [normed(up(wide, narrow), narrow) for narrow, wide in reversed(pairs)]
    last = [up(widths[0], 3, bias=True), nn.Tanh()]
    generator = nn.Sequential(first, *inner, *last)
    first = nn.Sequential(nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2))
    inner = [normed(down(narrow, wide), wide) for narrow, wide in pairs]
    last = [nn.Conv2d(widths[-1], 1, 4, bias=False), nn.LeakyReLU(0.2)]
    critic = nn.Sequential(first, *inner, *last)
    real, z = torch.rand(batch, 3, 256, 256) * 2 - 1, torch.randn(batch, latent, 1, 1)
    generator.to(memory_format=torch.channels_last)
    critic.to(memory_format=torch.channels_last)
    real = real.to(memory_format=torch.channels_last)
    of_generator, of_critic = (
        torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=fused)
        for model in (generator, critic)
    )

    def penalty():
        between = (0.3 * real + 0.7 * generator(z).detach()).requires_grad_()
        total = critic(between).sum()
        (gradient,) = torch.autograd.grad(total, between, create_graph=True)
        return 10 * (gradient.norm() - 1) ** 2

    losses = [
        (of_generator, lambda: -critic(generator(z)).mean()),
        (of_critic, lambda: critic(generator(z).detach()).mean() - critic(real).mean()),
        (of_critic, penalty),
    ]

    def step():
        for optimizer, loss in losses:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
        return value.item()

    return step


def tcgn(peer, drop=0.1):
    """As published, in the layout that it has by default, or sparse and channels-last."""
    if peer == "torch":
        return Tcgn(published=True, drop=drop), images(8).contiguous()
    return Tcgn(published=False, drop=drop).to(memory_format=torch.channels_last), images(8)


def tcgn_training(peer, drop=0.1):
    model, x = tcgn(peer, drop)
    y = torch.randn(8, 785)
    return model.train(), lambda: nn.functional.mse_loss(model(x), y)


def trnasformer_inference(peer):
    return trnasformer.Trnasformer(12, published=peer == "torch"), torch.randn(64, 1, 224, 224)


class OfBags(nn.Module):
    """Genes alone, which are what is compared."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[0]


def trnasformer_training(depth):
    """With the 10 highest tiles in every step, where the published code draws their number."""
    model = trnasformer.Trnasformer(depth).train()
    x, genes, labels = torch.randn(64, 1, 224, 224), torch.randn(64, 31_793).abs(), torch.arange(64) % 3
    return model, lambda: trnasformer.loss(model, x, genes, labels, 10)


# What a peer runs, by the name of the bench beside it.
INFERENCE = {
    "resnet50_features/f32/b16_224": resnet50_features,
    "densenet121_features/f32/b8_224": densenet121_features,
}
TRAINING = {
    "deeppt_step/f32/autoencoder_b64": autoencoder,
    "deeppt_step/f32/mlp_16x16": mlp,
    "resnet18_step/f32/b8_224": resnet18,
    "betavae_step/f32/b128": betavae,
    "trnasformer_step/f32/l12_b64": lambda: trnasformer_training(12),
    "trnasformer_step/f32/l1_b64": lambda: trnasformer_training(1),
}
# Models that are written here twice: as published, which is the peer `torch`, and better.
REWRITTEN = {
    "tcgn/f32/b8_224": (tcgn, ["torch", "torch-sparse"]),
    "tcgn_step/f32/b8_224": (tcgn_training, ["torch", "torch-sparse"]),
    "trnasformer/f32/l12_b64": (trnasformer_inference, ["torch", "torch-once"]),
}
# Several optimisers take turns in these.
ITERATIONS = {"rnagan_iteration/f32/b8_256": rnagan}
INFERENCE_PEERS = ["torch", "torch-frozen", "torch-compile", "onnxruntime", "openvino"]
TRAINING_PEERS = ["torch", "torch-fused", "torch-compile"]
# Of tasks of which more do not fit in memory, or in time.
SLOW = ["betavae_step/f32/b128", *(t for t in TRAINING if "trnasformer" in t), *ITERATIONS]
FEW_PEERS = {task: ["torch", "torch-fused"] for task in SLOW}


def peers(task):
    if task in OPERATORS:
        return OPERATOR_PEERS
    if task in REWRITTEN:
        return REWRITTEN[task][1]
    known = INFERENCE_PEERS if task in INFERENCE else TRAINING_PEERS
    return FEW_PEERS.get(task, known)


# Operators, by the whole name of the bench.
OPERATORS = [
    "matmul/nn/f32/1024x1024x1024",
    "matmul/nt/f32/1024x1024x1024",
    "matmul/tn/f32/1024x1024x1024",
    "linear/forward/f32/400x384x1152",
    "linear/forward/f32/98x384x31793",
    "linear/forward/f32/64x2048x512",
    "linear/forward/f32/64x4000x2048",
    "conv2d/forward/f32/n8_c64_k256_56x56_1x1",
    "conv2d/forward/f32/n8_c64_k64_56x56_3x3",
    "conv2d/forward/f32/n8_c256_k256_14x14_3x3",
    "conv2d/forward/f32/n8_c1024_k256_14x14_1x1",
    "conv2d/forward/f32/n8_c165_k165_56x56_3x3_g165",
    "conv2d/input_gradient/f32/n8_c165_k165_56x56_3x3_g165",
    "conv2d/weight_gradient/f32/n8_c165_k165_56x56_3x3_g165",
    "conv2d/forward/f32/n8_c92_k92_14x14_7x7_g92",
    "adamw/step/f32/6.4M",
]
OPERATOR_PEERS = ["torch"]

CONVOLUTION = re.compile(r"n(\d+)_c(\d+)_k(\d+)_(\d+)x(\d+)_(\d+)x(\d+)(?:_s(\d+))?(?:_g(\d+))?")


def convolution(variant, shape):
    """In the faster of PyTorch's two layouts, measured here."""
    n, c, k, h, w, r, s, stride, groups = (int(v or 1) for v in CONVOLUTION.fullmatch(shape).groups())
    padding = 0 if stride == r else (r - 1) // 2
    x, weight = torch.randn(n, c, h, w), torch.randn(k, c // groups, r, s)
    gy = torch.randn_like(nn.functional.conv2d(x, weight, None, stride, padding, 1, groups))

    def run(x, weight, gy):
        if variant == "forward":
            return lambda: nn.functional.conv2d(x, weight, None, stride, padding, 1, groups)
        both = variant == "gradients"
        wanted = [both or variant == "input_gradient", both or variant == "weight_gradient", False]
        geometry = [None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(gy, x, weight, *geometry, wanted)

    def seconds(run):
        times = []
        for _ in range(7):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    last = [t.to(memory_format=torch.channels_last) for t in (x, weight, gy)]
    return min([run(x, weight, gy), run(*last)], key=seconds)


def operator(task):
    """A function that does what the bench `task` does."""
    op, variant, _, shape = task.split("/")
    if op == "conv2d":
        return convolution(variant, shape)
    if op == "adamw":
        p = torch.randn(int(1e6 * float(shape.removesuffix("M"))), requires_grad=True)
        p.grad = torch.randn_like(p)
        return torch.optim.AdamW([p], lr=LEARNING_RATE, fused=True).step
    m, k, n = (int(v) for v in shape.split("x"))
    if op == "linear":
        x, weight, bias = torch.randn(m, k), torch.randn(n, k), torch.randn(n)
        return lambda: nn.functional.linear(x, weight, bias)
    a = torch.randn(k, m).t() if variant == "tn" else torch.randn(m, k)
    b = torch.randn(n, k).t() if variant == "nt" else torch.randn(k, n)
    return lambda: a @ b


def onnx(model, x):
    """The model as ONNX, in bytes."""
    held = io.BytesIO()
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(held)
    return held.getvalue()


def inference(task, peer, threads):
    """A function that does the work and returns the features."""
    if task in REWRITTEN:
        model, x = REWRITTEN[task][0](peer)
        model.eval()
        if "trnasformer" in task:
            model = OfBags(model)
        return lambda: model(x)
    model, x = INFERENCE[task]()
    if peer == "torch":
        return lambda: model(x)
    if peer == "torch-frozen":
        frozen = torch.jit.optimize_for_inference(torch.jit.trace(model, x))
        return lambda: frozen(x)
    if peer == "torch-compile":
        compiled = torch.compile(model)
        return lambda: compiled(x)
    plain = x.contiguous().numpy()
    if peer == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            onnx(model, x), options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        return lambda: torch.from_numpy(session.run(None, {name: plain})[0])
    if peer == "openvino":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        core = openvino.Core()
        found = core.read_model(model=io.BytesIO(onnx(model, x)))
        request = core.compile_model(found, "CPU", settings).create_infer_request()
        return lambda: torch.from_numpy(request.infer([plain])[0])
    raise SystemExit(f"{peer} does not run {task}")


def training(task, peer, **options):
    """A function that does a step and returns the loss before it."""
    if peer not in peers(task):
        raise SystemExit(f"{peer} does not run {task}")
    fused = None if peer == "torch" else True
    if task in ITERATIONS:
        return ITERATIONS[task](fused)
    model, loss = REWRITTEN[task][0](peer, **options) if task in REWRITTEN else TRAINING[task]()
    kind = torch.optim.AdamW if "trnasformer" in task else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=LEARNING_RATE, fused=fused)
    if peer == "torch-compile":
        loss = torch.compile(loss)

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def is_inference(task):
    return task in INFERENCE or (task in REWRITTEN and "_step" not in task)


def checked(task, peer, threads):
    """The work, after its first result was compared with PyTorch's eager one."""
    torch.manual_seed(0)
    if task in OPERATORS:
        return operator(task)
    if not is_inference(task):
        # The two of a rewritten model draw in another order.
        options = {"drop": 0.0} if task in REWRITTEN else {}
        values = [training(task, "torch", **options)] if peer != "torch" else []
        values = [step() for step in values for _ in range(2)]
        torch.manual_seed(0)
        step = training(task, peer, **options)
        # What an iteration of the GAN returns comes after two steps of Adam, which make
        # full steps of what is rounding in a gradient.
        tolerance = 1e-2 if task in ITERATIONS else 1e-3
        for value in values:
            got = step()
            assert abs(got - value) <= tolerance * abs(value), f"loss {got}, not {value}"
        return training(task, peer) if options else step
    run = inference(task, peer, threads)
    torch.manual_seed(0)
    expected = inference(task, "torch", threads)()
    error = (run() - expected).abs().max() / expected.abs().max()
    assert error <= 1e-3, f"features differ by {error} of the largest"
    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("peer")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # Nothing but the protocol may reach standard output.
    out, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(args.threads)
    with torch.inference_mode(is_inference(args.task)):
        run = checked(args.task, args.peer, args.threads)
        for _ in range(1 if args.task in FEW_PEERS else 3):
            run()
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            times = []
            for _ in range(int(line)):
                start = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - start))
            print(*times, file=out, flush=True)


if __name__ == "__main__":
    main()
