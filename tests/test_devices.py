"""What a GPU needs, checked without one: copies beside the computation, batches as large as memory
holds, half precision, and processes that share GPUs."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from anodetect.engines import local
from anodetect.engines.worker import Task
from anodetect.errors import RunError
from anodetect.generative.whitening import WindowsConfig, energy_maps
from anodetect.imaging import inference, transfer
from anodetect.imaging.transfer import DirectCopies, OnItsWay, StreamCopies, on_device
from anodetect.model import devices
from anodetect.nn import device_batches, training
from anodetect.nn.batching import images_together, in_micro_batches, small_batches
from anodetect.nn.device_batches import in_device_batches, rows_that_fit
from anodetect.nn.training import Training, optimize
from anodetect.nn.unet import UNet
from anodetect.types import Batch, TrainContext

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
HALF = 2e-2  # the tolerance that the contract of detectors has for 16 bits


class ClockedCopies:
    """A device with a clock: copying a batch to it takes 1, and so does bringing results back, each
    on an engine of its own; `compute` takes 2."""

    ahead = 1

    def __init__(self):
        self.now = self.sending = self.computing = self.fetching = 0.0
        self.in_flight = self.most_in_flight = 0

    def send(self, array):
        self.sending = max(self.now, self.sending) + 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return OnItsWay(torch.from_numpy(array), self.sending)

    def receive(self, sent):
        self.computing = max(self.computing, sent.arrived)  # what follows waits for the copy
        self.in_flight -= 1
        return sent.values

    def compute(self, x, *others):
        self.computing = max(self.now, self.computing) + 2
        return (2 * x, x.mean((1, 2, 3)))

    def fetch(self, values):
        self.fetching = max(self.computing, self.fetching) + 0.5
        return OnItsWay(values, self.fetching)

    def array(self, fetched):
        self.now = max(self.now, fetched.arrived)
        return fetched.values.numpy()


def images(count):
    return np.random.default_rng(0).normal(size=(count, 1, 4, 4)).astype(np.float32)


# -- Copies ----------------------------------------------------------------------------------------


def test_copies_run_beside_the_computation():
    device, x = ClockedCopies(), images(22)
    doubled, means = device_batches.apply(device.compute, (x, np.arange(22)), 4, device)
    assert np.array_equal(doubled, 2 * x)
    assert np.allclose(means, x.mean((1, 2, 3)))
    # Six batches: the first copy, what is computed without a gap, and the last results.
    assert device.now == 1 + 6 * 2 + 1
    assert device.most_in_flight == 2  # the batch that is worked on next, and the one after it


def test_batches_come_in_order_and_only_floats_are_copied():
    batches = [(np.full((2, 3), number, np.float32), np.array([number])) for number in range(5)]
    for copies in (DirectCopies(CPU), ClockedCopies()):
        found = list(on_device(iter(batches), copies))
        assert [float(values[0, 0]) for values, _ in found] == [0, 1, 2, 3, 4]
        assert all(isinstance(rows, np.ndarray) for _, rows in found)
    assert list(on_device(iter(()), ClockedCopies())) == []


def test_without_copies_ahead_nothing_is_drawn_before_its_turn():
    drawn = []

    def batches():
        for number in range(3):
            drawn.append(number)
            yield (np.zeros(1, np.float32),)

    found = on_device(batches(), DirectCopies(CPU))
    next(found)
    assert drawn == [0]


class Log(list):
    """A stand-in for CUDA: streams and events that write down what is asked of them."""

    def stream(self, name):
        def record_event():
            self.append(f"{name} records")
            return SimpleNamespace(synchronize=lambda: self.append(f"host waits for {name}"))

        return SimpleNamespace(
            record_event=record_event, wait_event=lambda event: self.append(f"{name} waits")
        )


def test_streams_wait_for_each_other_where_they_have_to(monkeypatch):
    log = Log()
    computing, empty, others = log.stream("computing"), torch.empty, iter(("sending", "fetching"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: log.stream(next(others)))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: log.append("locked") or x)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: log.append("in use"))
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: empty(shape, dtype=dtype))

    copies, x = StreamCopies(CPU), images(2)
    there = copies.receive(copies.send(x))
    assert log == ["locked", "sending records", "computing waits", "in use"]
    log.clear()
    assert np.array_equal(copies.array(copies.fetch(there)), x)
    waits = ["computing records", "fetching waits", "in use", "fetching records"]
    assert log == [*waits, "host waits for fetching"]


def test_training_ahead_learns_the_same(tmp_path, monkeypatch):
    """Batches that are drawn ahead are those of their steps, also after a return to good
    weights."""

    def weights(name):
        torch.manual_seed(0)
        net, calls = nn.Sequential(nn.Flatten(), nn.Linear(16, 16)), []

        def loss(model, batch):
            calls.append(batch.rows)
            factor = float("nan") if len(calls) == 60 else 1.0
            return factor * (model(batch.images) - batch.images.flatten(1)).square().mean()

        context = TrainContext(seed=1, device="cpu", workdir=tmp_path / name)
        config = Training(steps=70, batch=4, returns=1)
        trained = optimize(net, loss, images(32), config, context, device=CPU)
        return torch.cat([p.flatten() for p in trained.net.parameters()]), np.stack(calls)

    direct, rows = weights("direct")
    monkeypatch.setattr(training, "copies_of", lambda device: ClockedCopies())
    ahead, same_rows = weights("ahead")
    assert np.array_equal(rows, same_rows)
    assert np.array_equal(rows[50], rows[60])  # step 50 once more
    assert torch.equal(direct, ahead)


# -- The size of batches ---------------------------------------------------------------------------


def test_as_many_rows_are_computed_together_as_half_of_the_memory_holds():
    assert rows_that_fit(10**6, 1e9, 64) == 64
    assert rows_that_fit(10**8, 1e9, 64) == 4  # 5 would fit
    assert rows_that_fit(10**8, 8e8, 64) == 4
    assert rows_that_fit(10**10, 1e9, 64) == 1
    assert rows_that_fit(0, 1e9, 64) == 64


class Doubling:
    def __init__(self):
        self.sizes = []

    def __call__(self, x):
        raise AssertionError("only its method is called")

    def doubled(self, x):
        self.sizes.append(len(x))
        return (2 * x,)


@pytest.fixture
def gpu(monkeypatch):
    """Return bytes that one row takes, in a list, of a GPU that is a processor: it has 1 MB."""
    one, trials = [10_000], []
    monkeypatch.setattr(device_batches, "copies_of", lambda device: DirectCopies(CPU))
    monkeypatch.setattr(device_batches, "memory_of", lambda device: 1e6)

    def bytes_of_one(function, arrays, device):
        trials.append(arrays[0].shape)
        return one[0]

    monkeypatch.setattr(device_batches, "bytes_of_one", bytes_of_one)
    return SimpleNamespace(one=one, trials=trials)


def test_a_gpu_takes_batches_by_its_memory_after_one_trial(gpu):
    small, large, x = Doubling(), Doubling(), images(40)
    for _ in range(2):
        (found,) = in_device_batches(small.doubled, x, size=16, device=GPU)
        assert np.array_equal(found, 2 * x)
    assert small.sizes == [32, 32] * 2  # 50 rows would fit
    gpu.one[0] = 1_000
    in_device_batches(large.doubled, x, size=16, device=GPU)
    assert large.sizes == [64]  # four times the size, filled up
    assert len(gpu.trials) == 2

    wide = np.zeros((3, 1, 8, 8), np.float32)
    gpu.one[0] = 200_000
    in_device_batches(small.doubled, wide, size=16, device=GPU)
    assert small.sizes[4:] == [2, 2]
    with small_batches():
        in_device_batches(large.doubled, x[:1], size=16, device=GPU)
    assert large.sizes[1:] == [1]


class Adding:
    def energy(self, x):
        return x.sum(1)


def test_the_maps_of_a_detectors_energy_take_one_trial(gpu):
    adding, config = Adding(), WindowsConfig(window=1, stride=1)
    batch = Batch(images(3), np.ones((3, *images(1).shape[2:]), bool))
    for _ in range(2):
        found = energy_maps(adding.energy, batch, config, GPU)
        assert np.array_equal(found, batch.images.sum(1, keepdims=True))
    assert len(gpu.trials) == 1
    energy_maps(Adding().energy, batch, config, GPU)
    assert len(gpu.trials) == 2


def test_a_processor_takes_the_batches_it_always_took():
    counted, x = Doubling(), images(21)
    (found,) = in_device_batches(counted.doubled, x, size=16, device=CPU)
    (expected,) = in_micro_batches(lambda part: (2 * part,), x, size=16)
    assert np.array_equal(found, expected)
    assert counted.sizes == [16, 16]


def test_a_gpu_is_given_more_images_at_once_also_by_a_member():
    on_cpu, on_gpu = SimpleNamespace(device=CPU), SimpleNamespace(device=GPU)
    assert images_together(16, on_cpu, object()) == 16
    assert images_together(16, object(), on_cpu, on_gpu) == 64


@pytest.mark.usefixtures("gpu")
def test_a_full_memory_is_said_in_one_line():
    def too_much(x):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    with pytest.raises(RunError, match=r"memory of cuda:0 is full: .*--workers"):
        in_device_batches(too_much, images(2), size=16, device=GPU)


# -- Precision -------------------------------------------------------------------------------------


def test_half_precision_is_what_the_device_multiplies(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert inference.half_type(GPU) == torch.bfloat16
    assert inference.half_type(GPU, gradients=True) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert inference.half_type(GPU) == torch.float16
    assert inference.half_type(GPU, gradients=True) is None
    assert inference.half_type(torch.device("mps")) is None
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert inference.half_type(CPU) is None


def test_networks_compute_alike_in_all_precisions(monkeypatch):
    torch.manual_seed(0)
    net = UNet(1, 1, (16, 32), stem=4).eval().requires_grad_(False)
    for weights in net.parameters():
        weights.add_(torch.randn_like(weights), alpha=0.02)
    net.to(memory_format=torch.channels_last)
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([5, 20])

    found = {}
    for half in (None, torch.float16, torch.bfloat16):
        monkeypatch.setattr(inference, "half_type", lambda device, gradients, half=half: half)
        with torch.no_grad(), inference.autocast(CPU):
            found[half] = net(x, t)
        assert found[half].dtype == (half or torch.float32)
    exact = found[None]
    for half in (torch.float16, torch.bfloat16):
        assert (found[half] - exact).abs().max() < HALF * exact.abs().max()
        assert not torch.equal(found[half].float(), exact)


# -- Several processes and GPUs --------------------------------------------------------------------


def test_processes_share_gpus_as_their_memory_allows():
    assert local.share(16, 128e9, [140e9]) == (16, 1)
    assert local.share(16, 128e9, [8e9]) == (4, 4)
    assert local.share(16, 128e9, [8e9, 8e9]) == (8, 2)
    assert local.share(16, 128e9, [1e9]) == (1, 16)


def test_each_process_has_a_gpu_and_its_part_of_the_memory():
    task = Task(Path("run"), "m", Path("out"), (), 0.05, None, "1/1", "auto", False)
    tasks = local.shared_out(task, ["cuda:0", "cuda:1"], 5)
    assert [each.device for each in tasks] == ["cuda:0", "cuda:1"] * 2 + ["cuda:0"]
    assert {each.device_share for each in tasks} == {1 / 3}
    (alone,) = local.shared_out(task, ["cpu"], 1)
    assert (alone.device, alone.device_share) == ("cpu", 1)


def test_a_name_stands_for_all_gpus_unless_it_has_a_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("anodetect.nn.inference.pick_device", lambda name: torch.device("cuda:0"))
    assert devices.devices_of("cuda") == devices.devices_of("auto") == ["cuda:0", "cuda:1"]
    monkeypatch.setattr("anodetect.nn.inference.pick_device", torch.device)
    assert devices.devices_of("cuda:1") == ["cuda:1"]
    assert devices.devices_of("cpu") == ["cpu"]
    assert devices.gpu_memory(["cpu"]) == []


# -- Compiled networks -----------------------------------------------------------------------------


def test_what_is_compiled_is_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(training, "user_folder", lambda kind: tmp_path / kind)
    monkeypatch.setattr(nn.Module, "compile", lambda net: None)
    training._compile(nn.Linear(1, 1))
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert cache_dir() == str(tmp_path / "compiled")


def test_arrays_of_all_layouts_become_tensors():
    x = images(3)[:, :, ::-1]
    assert np.array_equal(transfer.to_tensor(x, CPU).numpy(), x)
