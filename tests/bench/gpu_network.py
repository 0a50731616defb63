"""Training iterations and forward passes of nnu-net and of PyTorch on one card, by turns; and the card's own rates.

The batch lies in the card's memory. Each side runs forward, Dice + cross-entropy at every decoder resolution and
backward, clips, steps, and reads the loss back. PyTorch: nnU-Net's network, loss and SGD with Nesterov momentum; float16 with a gradient scaler as in
nnU-Net, and bfloat16; both memory layouts; compiled: nnU-Net's own default, and the fastest of the others.
"""

import re
import time

import torch

import unet
from gpu_common import left, nnunet, options, ours, plans, seconds, summary, wait, write, write_plans

CASES = {
    "128×128×128, batch 2, features 32…320": ([32, 64, 128, 256, 320, 320], [128, 128, 128], 2),
    "40×56×40, batch 9, features 32…256": ([32, 64, 128, 256], [40, 56, 40], 9),
}
TINY = {"16×16×16, batch 2, features 8, 16, 16": ([8, 16, 16], [16, 16, 16], 2)}
EAGER = [("fp16", "contiguous"), ("bf16", "contiguous"), ("fp16", "channels last"), ("bf16", "channels last")]
CLASSES = 3


class Torch:
    """One way to run the network in PyTorch."""

    def __init__(self, case, device, precision, layout, compiled, rehearse):
        features, patch, batch = case
        self.device, self.dtype = device, {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self.name = f"PyTorch {precision}, {layout}" + (", compiled" if compiled else "")
        self.format = torch.channels_last_3d if layout == "channels last" else torch.contiguous_format
        net = unet.UNet(features, classes=CLASSES, deep_supervision=True)
        self.net = net.to(device=device, memory_format=self.format)
        self.run, self.dice = self.net, unet.soft_dice
        if compiled:
            backend = "eager" if rehearse else "inductor"
            self.run, self.dice = (torch.compile(f, backend=backend) for f in (self.net, unet.soft_dice))
        self.optimiser = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.99, weight_decay=3e-5, nesterov=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.image = (torch.rand(batch, 1, *patch) * 2 - 1).to(device, memory_format=self.format)
        target = torch.randint(0, CLASSES, (batch, *patch), device=device)
        steps = [2**i for i in range(len(features) - 1)]
        self.targets = [target[:, ::s, ::s, ::s].contiguous() for s in steps]
        self.times = {"training": [], "forward": []}

    def autocast(self):
        return torch.autocast(self.device.type, self.dtype)

    def train(self):
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            loss = unet.deeply_supervised(self.run(self.image), self.targets, self.dice)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 12)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.item()

    @torch.inference_mode()
    def forward(self):
        """Logits of the finest resolution."""
        self.net.eval()
        self.net.deep_supervision = False
        with self.autocast():
            logits = self.run(self.image)
        self.net.deep_supervision = True
        self.net.train()
        return logits

    def measure(self, repetitions):
        self.times["training"] += seconds(self.device, self.train, repetitions)
        self.times["forward"] += seconds(self.device, self.forward, repetitions)

    def warm(self):
        for _ in range(3):
            self.train()
        for _ in range(2):
            self.forward()


def rates(device, rehearse):
    """Matrix products in bfloat16, FLOP/s, and copies in device memory, bytes/s (read and written)."""
    n = 256 if rehearse else 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    floats = torch.randn(2**16 if rehearse else 2**30, device=device)
    out = torch.empty_like(floats)
    found = {}
    for name, call, work in [
        ("matrix", lambda: torch.matmul(a, b), 2 * n**3),
        ("memory", lambda: out.copy_(floats), 8 * floats.numel()),
    ]:
        seconds(device, call, 3)
        found[name] = work / summary(seconds(device, call, 20))["median"]
    return found


def bench(found, plan, repetitions, precision):
    """Seconds and FLOP of nnu-net's training iteration and forward pass."""
    network = ["--plan", plan, "--configuration", "3d_fullres"]
    out, _, _ = ours(
        found, "nnu-net", "bench", *network, "--optimiser", "sgd", "--repetitions", repetitions,
        device=True, precision=precision,
    )
    numbers = {}
    for key, name in [("training", "training iteration"), ("forward", "forward")]:
        line = re.search(rf"^{name}: ([\d.]+) s.*?(\d+) GFLOP", out, re.M)
        numbers[key] = (float(line[1]), float(line[2]) * 1e9)
    return numbers


def attempt(result, name, call):
    """Whether it went; if not, the result says why."""
    try:
        call()
        return True
    except Exception as error:  # a variant that PyTorch cannot run isn't a baseline, and no reason to stop
        result["left out"][name] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"{name}: {error!r}", flush=True)
        return False


def compare(found, ends, title, case, result, save):
    """Both sides by turns, compiled ones last, as long as there is time."""
    features, patch, batch = case
    plan = write_plans(found, found.work / re.sub(r"\W+", "_", title), plans(features, patch, batch))
    rounds, repetitions = (1, 1) if found.rehearse else (3, 7)
    variants, times = [], {}

    def add(precision, layout, compiled=False):
        name = f"{precision}, {layout}" + (", compiled" if compiled else "")
        if ends - time.monotonic() < (50 if compiled else 15) and not found.rehearse:
            result["left out"][f"PyTorch {name}"] = "no time left"
            return
        variant = Torch(case, found.device, precision, layout, compiled, found.rehearse)
        if attempt(result, variant.name, variant.warm):
            variants.append(variant)

    def measure(these, count):
        for _ in range(count):
            for key, (spent, work) in bench(found, plan, repetitions, "bf16").items():
                times.setdefault(key, []).append(spent)
                result["flop"][key] = work
            for variant in these:
                variant.measure(repetitions)
            result["ours"] = {key: summary(spent) for key, spent in times.items()}
            result["pytorch"] = {
                v.name: {key: summary(spent) for key, spent in v.times.items()} for v in variants if v.times["training"]
            }
            save()

    for precision, layout in EAGER:
        add(precision, layout)
    measure(variants, rounds)
    fastest = min(variants, key=lambda v: summary(v.times["training"])["median"], default=None)
    add("fp16", "contiguous", compiled=True)
    if fastest and fastest.name != "PyTorch fp16, contiguous":
        add(*fastest.name.removeprefix("PyTorch ").split(", "), compiled=True)
    measure([v for v in variants if "compiled" in v.name], rounds)
    exact = {key: spent for key, (spent, _) in bench(found, plan, 3, "f32").items()}
    result["ours f32"] = exact
    save()


def held_against_nnunet():
    """The module and the loss above are nnU-Net's, where that is at hand."""
    modules, missing = nnunet("utilities.get_network_from_plans", "training.loss.compound_losses", "training.loss.dice")
    if missing:
        return missing
    features = [4, 6, 8]
    architecture = plans(features, [8] * 3, 1)["configurations"]["3d_fullres"]["architecture"]
    names = (architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"])
    theirs = modules[0].get_network_from_plans(*names, 1, CLASSES, deep_supervision=True)
    mine = unet.UNet(features, classes=CLASSES, deep_supervision=True)
    theirs.load_state_dict(mine.state_dict(), strict=True)
    image, target = torch.rand(2, 1, 16, 16, 16), torch.randint(0, CLASSES, (2, 16, 16, 16))
    with torch.no_grad():
        pairs = list(zip(theirs(image), mine(image), strict=True))
        dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
        loss = modules[1].DC_and_CE_loss(dice, {}, dice_class=modules[2].MemoryEfficientSoftDiceLoss)
        pairs.append((loss(pairs[0][0], target[:, None]), unet.dice_and_cross_entropy(pairs[0][1], target)))
    for expected, got in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    return "equal to nnU-Net's"


def main():
    found = options(__doc__)
    results = {"cases": {}}
    if found.rehearse:
        results["module"] = held_against_nnunet()
    results["rates"] = rates(found.device, found.rehearse)
    cases = TINY if found.rehearse else CASES
    for i, (title, case) in enumerate(cases.items()):
        result = results["cases"][title] = {"left out": {}, "flop": {}}
        ends = time.monotonic() + left(found) / (len(cases) - i)
        compare(found, ends, title, case, result, lambda: write(found.json, results))
        wait(found.device)
        if found.device.type == "cuda":
            torch.cuda.empty_cache()
            torch._dynamo.reset()
    write(found.json, results)


if __name__ == "__main__":
    main()
