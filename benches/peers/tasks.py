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

LEARNING_RATE = 1e-4


def resnet(depth, classes=1000):
    import torchvision

    model = getattr(torchvision.models, depth)(weights=None, num_classes=classes)
    return model.to(memory_format=torch.channels_last)


def images(batch):
    return torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)


def resnet50_features():
    model = resnet("resnet50").eval()
    model.fc = nn.Identity()
    return model, images(16)


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
    model = resnet("resnet18", classes=9).train()
    x, labels = images(8), torch.arange(8) % 9
    return model, lambda: nn.functional.cross_entropy(model(x), labels)


# What a peer runs, by the name of the bench beside it.
INFERENCE = {"resnet50_features/f32/b16_224": resnet50_features}
TRAINING = {
    "deeppt_step/f32/autoencoder_b64": autoencoder,
    "deeppt_step/f32/mlp_16x16": mlp,
    "resnet18_step/f32/b8_224": resnet18,
}
INFERENCE_PEERS = ["torch", "torch-frozen", "torch-compile", "onnxruntime", "openvino"]
TRAINING_PEERS = ["torch", "torch-fused", "torch-compile"]


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
        wanted = [variant == "input_gradient", variant == "weight_gradient", False]
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


def training(task, peer):
    """A function that does a step and returns the loss before it."""
    model, loss = TRAINING[task]()
    fused = None if peer == "torch" else True
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=fused)
    if peer == "torch-compile":
        loss = torch.compile(loss)
    elif peer not in TRAINING_PEERS:
        raise SystemExit(f"{peer} does not run {task}")

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def checked(task, peer, threads):
    """The work, after its first result was compared with PyTorch's eager one."""
    torch.manual_seed(0)
    if task in OPERATORS:
        return operator(task)
    if task in TRAINING:
        step = training(task, peer)
        torch.manual_seed(0)
        expected = training(task, "torch")
        for _ in range(2):
            got, value = step(), expected()
            assert abs(got - value) <= 1e-3 * abs(value), f"loss {got}, not {value}"
        return step
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
    with torch.inference_mode(args.task not in TRAINING):
        run = checked(args.task, args.peer, args.threads)
        for _ in range(3):
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
