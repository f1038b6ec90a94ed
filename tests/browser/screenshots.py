"""Pictures of the page for the documentation, from real trainings: `python -m browser.screenshots` in the folder tests.

Four small convolutional networks learn handwritten digits, with and without momentum and weight decay; a small
transformer learns to predict the letters of this project's documentation. Some minutes on two cores.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from playwright.sync_api import Browser, Page, sync_playwright
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import trajmon
from browser.visiting import ARGUMENTS
from support.server import ServerProcess

DOCS = Path(__file__).parents[2] / "docs"
EPOCHS = 45
DIGITS = {
    "resnet": (0.9, 1e-3),
    "no-momentum": (0.0, 1e-3),
    "no-weight-decay": (0.9, 0.0),
    "neither": (0.0, 0.0),
}
"""Run, momentum, weight decay."""
LETTERS_STEPS, EVERY = 800, 20
_WIDTH, _HEADS, _BLOCKS, _CONTEXT = 48, 4, 6, 48
_WIDE = {"width": 1440, "height": 900}
PICTURES = {
    "web-list": ("/", {"width": 1440, "height": 300}, "light"),
    "web-run": ("/runs/resnet", _WIDE, "light"),
    "web-run-dark": ("/runs/gpt?tau=0&open=null&open=spectrum", _WIDE, "dark"),
    "web-layers": ("/runs/gpt/layers?filter=*attn.*", {"width": 1280, "height": 860}, "light"),
    "web-compare": ("/compare?" + "&".join(f"run={run}" for run in DIGITS), _WIDE, "light"),
    "web-phone": ("/runs/resnet", {"width": 390, "height": 844}, "light"),
}
"""File, address, window, colours."""


class Residual(nn.Module):
    """Two convolutions with batch norm around a way past them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(x + inner)


class Attention(nn.Module):
    """Causal attention with query, key and value of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            part(x).view(batch, length, _HEADS, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, _WIDTH))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One block of the transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(_WIDTH), Attention(), nn.LayerNorm(_WIDTH)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class Letters(nn.Module):
    """A transformer over letters."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, _WIDTH)
        self.position = nn.Embedding(_CONTEXT, _WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(_BLOCKS))
        self.ln_f = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, letters, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.ln_f(h))  # type: ignore[no-any-return]


def train_digits(run: str, momentum: float, weight_decay: float) -> None:
    """One network, a checkpoint each epoch, two falls of the learning rate."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        Residual(12), nn.MaxPool2d(2), Residual(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 33])
    recorder = trajmon.watch(model, run=run, optimizer=optimizer, tags=["digits", "SGD"])
    step = 0
    for epoch in range(EPOCHS):
        losses = []
        for batch in torch.split(torch.randperm(len(x)), 64):
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
            losses.append(float(loss.detach()))
        recorder.checkpoint(step=step, epoch=epoch + 1, metrics={"loss": sum(losses) / len(losses)})
        schedule.step()
    recorder.close()


def train_letters(run: str) -> None:
    """The transformer, a checkpoint each EVERY steps, warm-up and cosine."""
    torch.manual_seed(0)
    text = "\n".join(path.read_text() for path in sorted(DOCS.glob("*.md")))
    letters = sorted(set(text))
    data = torch.tensor([letters.index(letter) for letter in text])
    model = Letters(len(letters))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / 40) * (0.05 + 0.95 * (1 + math.cos(math.pi * s / LETTERS_STEPS)) / 2),
    )
    recorder = trajmon.watch(model, run=run, optimizer=optimizer, tags=["letters", "AdamW"])
    for step in range(1, LETTERS_STEPS + 1):
        starts = torch.randint(len(data) - _CONTEXT - 1, (16,))
        batch = torch.stack([data[start : start + _CONTEXT + 1] for start in starts.tolist()])
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            recorder.checkpoint(step=step, metrics={"loss": float(loss.detach())})
    recorder.close()


def wait_for(server: ServerProcess, runs: Iterator[str]) -> None:
    """Until the server has every run to its end."""
    for run in runs:
        request = urllib.request.Request(
            f"http://{server.addresses['http']}/api/v1/runs/{run}",
            headers={"Authorization": f"Bearer {server.token}"},
        )
        deadline = time.monotonic() + 120
        while b'"phase":"finished"' not in urllib.request.urlopen(request).read():
            assert time.monotonic() < deadline, f"{run} does not end"
            time.sleep(0.2)


def picture(browser: Browser, server: ServerProcess, name: str) -> None:
    """One picture into docs/images."""
    address, window, colors = PICTURES[name]
    context = browser.new_context(viewport=window, color_scheme=colors, device_scale_factor=1.5)  # type: ignore[arg-type]
    page: Page = context.new_page()
    base = f"http://{server.addresses['http']}"
    page.goto(f"{base}/?token={server.token}")
    page.goto(base + address)
    page.locator("#rows[aria-busy=false]" if address == "/" else "body[data-ready]").wait_for(
        state="attached"
    )
    page.wait_for_timeout(1500)
    page.screenshot(path=DOCS / "images" / f"{name}.png", full_page=window is _WIDE and address != "/")
    context.close()


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not on the PATH; on Debian, as root: make browser")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRAJMON_HOME"] = folder
        server = ServerProcess(Path(folder)).start()
        try:
            os.environ["TRAJMON_SERVER"] = server.addresses["grpc"]
            for run, (momentum, weight_decay) in DIGITS.items():
                print(f"training {run}", flush=True)
                train_digits(run, momentum, weight_decay)
            print("training gpt", flush=True)
            train_letters("gpt")
            wait_for(server, iter([*DIGITS, "gpt"]))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
                for name in PICTURES:
                    print(f"docs/images/{name}.png", flush=True)
                    picture(browser, server, name)
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
