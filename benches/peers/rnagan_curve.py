"""Iterations of RNA-GAN in PyTorch, from the weights, tiles, latents, noise and alphas of ours.

    cargo run --release --features bench-all --example rnagan_curve -- gan.toml 50 curve.safetensors
    python benches/peers/rnagan_curve.py curve.safetensors [--every 5]

Each iteration takes the three steps of the published trainer in their order (generator, critic,
penalty; Adam), written here from the description in src/models/rnagan/README.md. Prints a table
of the losses, ours and PyTorch's in f32 and f64, and the largest differences.
"""

import argparse

import torch
from safetensors import safe_open
from torch import nn


class Generator(nn.Module):
    def __init__(self, weights):
        super().__init__()
        layers = []
        place = 0
        while f"model.{place}.0.weight" in weights:
            i, o = weights[f"model.{place}.0.weight"].shape[:2]
            last = f"model.{place}.1.weight" not in weights
            stride, padding = (1, 0) if place == 0 else (2, 1)
            conv = nn.ConvTranspose2d(i, o, 4, stride, padding, bias=last)
            rest = [nn.Tanh()] if last else [nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
            layers.append(nn.Sequential(conv, *rest))
            place += 1
        self.model = nn.Sequential(*layers)

    def forward(self, z):
        return self.model(z[:, :, None, None])


class Critic(nn.Module):
    def __init__(self, weights):
        super().__init__()
        layers = []
        place = 0
        while f"model.{place}.0.weight" in weights:
            o, i = weights[f"model.{place}.0.weight"].shape[:2]
            conv = nn.Conv2d(i, o, 4, 2, 1, bias=place == 0)
            norm = [] if place == 0 else [nn.BatchNorm2d(o)]
            layers.append(nn.Sequential(conv, *norm, nn.LeakyReLU(0.2)))
            place += 1
        self.model = nn.Sequential(*layers)
        self.disc = nn.Sequential(nn.Conv2d(o, 1, 4, bias=False), nn.LeakyReLU(0.2))

    def forward(self, x):
        return self.disc(self.model(x)).flatten()


def train(file, settings, iterations, dtype):
    def part(prefix):
        keys = [key for key in file.keys() if key.startswith(prefix)]
        return {key[len(prefix) :]: file.get_tensor(key) for key in keys}

    def network(kind, prefix):
        weights = part(prefix)
        model = kind(weights)
        model.load_state_dict(weights)
        return model.to(dtype).train()

    def given(name, i):
        return file.get_tensor(f"{name}/{i}").to(dtype)

    generator, critic = network(Generator, "generator/"), network(Critic, "critic/")
    betas = (settings["beta1"], settings["beta2"])
    of_generator = torch.optim.Adam(generator.parameters(), settings["generator_rate"], betas)
    of_critic = torch.optim.Adam(critic.parameters(), settings["critic_rate"], betas)
    losses = []
    for i in range(iterations):
        real, latents, alpha = given("real", i), given("latents", i), given("alpha", i)

        def start(step):
            x = latents + given(f"noise/{step}", i)
            return (x - x.mean(0)) / x.std(0)

        def penalty():
            fake = generator(start("penalty")).detach()
            between = (alpha * real + (1 - alpha) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            return settings["penalty"] * (slope.norm() - 1) ** 2

        steps = [
            (of_generator, lambda: -critic(generator(start("generator"))).mean()),
            (
                of_critic,
                lambda: critic(generator(start("critic")).detach()).mean() - critic(real).mean(),
            ),
            (of_critic, penalty),
        ]
        for optimizer, loss in steps:
            generator.zero_grad()
            critic.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return torch.tensor(losses, dtype=torch.float64).reshape(iterations, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with safe_open(args.file, "pt") as file:
        settings = {k: float(v) for k, v in file.metadata().items() if k != "format"}
        ours = {name: file.get_tensor(f"losses/{name}") for name in ("f32", "f64")}
        iterations = len(ours["f32"])
        torchs = {
            name: train(file, settings, iterations, dtype)
            for name, dtype in (("f32", torch.float32), ("f64", torch.float64))
        }
    columns = [
        ("ours f64", ours["f64"]),
        ("PyTorch f64", torchs["f64"]),
        ("ours f32", ours["f32"]),
        ("PyTorch f32", torchs["f32"]),
    ]
    print("| iteration | " + " | ".join(name for name, _ in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for i in range(iterations):
        if i == 0 or (i + 1) % args.every == 0:
            cells = [" / ".join(f"{v:.4g}" for v in losses[i].tolist()) for _, losses in columns]
            print(f"| {i + 1} | " + " | ".join(cells) + " |")
    print("\ngenerator / critic / penalty")

    def apart(a, b, upto):
        return ((a - b).abs() / b.abs().clamp(min=1e-12))[:upto].max().item()

    for upto in (1, 5, 10, 20, iterations):
        double, single = apart(ours["f64"], torchs["f64"], upto), apart(ours["f32"], torchs["f32"], upto)
        rounding = apart(torchs["f32"], torchs["f64"], upto)
        print(
            f"first {upto:3}: f64 ours to PyTorch {double:.1e}, f32 {single:.1e}; "
            f"PyTorch f32 to f64 {rounding:.1e}"
        )


if __name__ == "__main__":
    main()
