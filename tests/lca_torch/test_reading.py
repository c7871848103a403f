"""Reading the measured data moves nothing of the user's, and every example is measured once."""

import itertools
import multiprocessing
import queue
import random
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from lca import tolerances
from lca.errors import DataError
from lca_torch import Objective
from lca_torch._private_copy import PrivateCopy
from tests.lca_torch.networks import X, Y, mlp

N = len(X)
SHARED_NUMBERS = [np.random.default_rng(5)]
CALLS = []


MODEL = mlp().double()


def plain_mean(x=X, y=Y):
    """The mean loss over examples, in float64."""
    with torch.no_grad():
        return float(cross_entropy(MODEL(x.double()), y))


def check_mean(data, expected, *, keep=True, **options):
    objective = Objective(MODEL, cross_entropy, data, keep=keep, **options)
    theta = objective.theta()
    found = objective.loss(theta)
    assert abs(found - expected) <= tolerances.summed(expected, tolerances.EPS64)
    assert objective.loss(theta) == found


class Pairs(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i], Y[i]


class Shuffling(IterableDataset):
    """Begins each epoch with another order, from a generator and a counter of its own."""

    def __init__(self):
        self.epoch, self.numbers = 0, random.Random(3)

    def __iter__(self):
        self.epoch += 1
        order = list(range(N))
        self.numbers.shuffle(order)
        yield from ((X[i], Y[i] * 0 + Y[i]) for i in order[self.epoch :] + order[: self.epoch])


class NoisyPairs(Pairs):
    """Adds noise from a generator that one of the usual places holds."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __getitem__(self, i):
        noise = self.numbers.random() if hasattr(self.numbers, "random") else self.numbers.rand()
        return X[i] + 1e-9 * float(noise), Y[i]


class TorchNoise(Pairs):
    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)

    def __getitem__(self, i):
        return X[i] + 1e-9 * torch.randn(6, generator=self.generator), Y[i]


class GlobalNoise(Pairs):
    def __getitem__(self, i):
        legacy = np.random.rand()  # noqa: NPY002 - many data sets use it
        noise = SHARED_NUMBERS[0].random() + legacy + random.random() + float(torch.rand(()))
        return X[i] + 1e-9 * noise, Y[i]


class ClassCounter(Pairs):
    read = 0
    numbers = random.Random(9)

    def __getitem__(self, i):
        type(self).read += 1
        CALLS.append(i)
        return X[i] + 1e-9 * (type(self).read + len(CALLS) + self.numbers.random()), Y[i]


class Locked(Pairs):
    """Holds what cannot be copied, a counter beside it, and one shared between processes."""

    def __init__(self, file):
        self.lock, self.read, self.file = threading.Lock(), 0, file
        self.count = multiprocessing.get_context("spawn").Value("i", 0)

    def __getitem__(self, i):
        with self.lock:
            self.read += 1
            self.count.value += 1
        shift = float(self.file.readline()) + self.read + self.count.value
        return X[i] + 1e-9 * shift, Y[i]


class Counted(Sampler):
    """Its order moves on by one each epoch."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter([(i + self.epoch) % N for i in range(N)])

    def __len__(self):
        return N


class Buckets(Sampler):
    """Batches of unequal sizes, in an order drawn anew each epoch."""

    def __init__(self, repeats=0):
        self.numbers, self.repeats = np.random.RandomState(2), repeats

    def __iter__(self):
        cuts = [list(range(start, min(start + 5, N))) for start in range(0, N, 5)]
        return iter([cuts[i] for i in self.numbers.permutation(len(cuts))] + cuts[: self.repeats])

    def __len__(self):
        return 4


class OwnLoader:
    """A loader that torch does not know, which is its own iterator."""

    def __init__(self):
        self.numbers = np.random.default_rng(0)

    def __iter__(self):
        self.left = list(np.array_split(self.numbers.permutation(N), 4))
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        index = self.left.pop()
        return X[index], Y[index]


class Wrapped(DataLoader):
    """A subclass with a loop of its own."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield x.clone(), y


def counting_collate():
    calls, numbers = 0, random.Random(1)
    state = {"calls": 0}

    def collate(examples):
        nonlocal calls
        calls += 1
        state["calls"] += 1
        x, y = map(torch.stack, zip(*examples, strict=True))
        return x + 1e-9 * (calls + state["calls"] + numbers.random()), y

    return collate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def lines(tmp_path):
    """Opens a file of numbers."""
    path = tmp_path / "shifts"
    path.write_text("".join(f"{i}\n" for i in range(200)))
    with ExitStack() as stack:
        yield lambda: stack.enter_context(open(path))


LOADERS = {
    "shuffle": lambda lines: DataLoader(Pairs(), 4, shuffle=True),
    "generator": lambda lines: DataLoader(Pairs(), 4, shuffle=True, generator=generator()),
    "generator of the sampler": lambda lines: DataLoader(
        Pairs(), 4, sampler=RandomSampler(Pairs(), generator=generator())
    ),
    "subset": lambda lines: DataLoader(Pairs(), 4, sampler=SubsetRandomSampler(range(N), generator())),
    "sampler with a counter": lambda lines: DataLoader(Pairs(), 4, sampler=Counted()),
    "batch sampler": lambda lines: DataLoader(Pairs(), batch_sampler=Buckets()),
    "batch sampler as a sampler": lambda lines: DataLoader(
        TensorDataset(X, Y), batch_size=None, sampler=BatchSampler(RandomSampler(X), 4, drop_last=False)
    ),
    "numpy Generator": lambda lines: DataLoader(NoisyPairs(np.random.default_rng(1)), 4),
    "numpy RandomState": lambda lines: DataLoader(NoisyPairs(np.random.RandomState(1)), 4),
    "random.Random": lambda lines: DataLoader(NoisyPairs(random.Random(1)), 4),
    "torch.Generator": lambda lines: DataLoader(TorchNoise(), 4),
    "global generators": lambda lines: DataLoader(GlobalNoise(), 4),
    "class attributes": lambda lines: DataLoader(ClassCounter(), 4),
    "locks and files": lambda lines: DataLoader(Locked(lines()), 4),
    "closure of collate_fn": lambda lines: DataLoader(Pairs(), 4, collate_fn=counting_collate()),
    "iterable": lambda lines: DataLoader(Shuffling(), 4),
    "two workers": lambda lines: DataLoader(Pairs(), 4, shuffle=True, num_workers=2, generator=generator()),
    "persistent workers": lambda lines: DataLoader(
        NoisyPairs(random.Random(1)), 4, num_workers=1, persistent_workers=True, generator=generator()
    ),
    "own loader": lambda lines: OwnLoader(),
    "subclass": lambda lines: Wrapped(Pairs(), 4, shuffle=True, generator=generator()),
}


def two_epochs(loader, measure=lambda loader: None):
    """What training reads in two epochs, and the generators afterwards; measured at three moments."""
    ClassCounter.read, ClassCounter.numbers = 0, random.Random(9)
    SHARED_NUMBERS[0] = np.random.default_rng(5)
    CALLS.clear()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    measure(loader)
    read = list(loader)
    measure(loader)
    read += list(loader)
    measure(loader)
    numpy = repr(np.random.get_state())  # noqa: NPY002
    return read, torch.get_rng_state().tolist(), numpy, random.getstate()


# JAX, which other tests in this process may have imported, warns of every fork.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", LOADERS)
def test_training_reads_the_same_data_as_if_nothing_were_measured(kind, keep, lines):
    expected = two_epochs(LOADERS[kind](lines))
    plain = plain_mean()

    def measure(loader):
        objective = Objective(MODEL, cross_entropy, loader, keep=keep)
        theta = objective.theta()
        loss = objective.loss(theta)
        assert abs(loss - plain) <= 1e-6
        assert objective.loss(theta) == loss

    found = two_epochs(LOADERS[kind](lines), measure)
    for (x, y), (x_plain, y_plain) in zip(found[0], expected[0], strict=True):
        assert torch.equal(x, x_plain)
        assert torch.equal(y, y_plain)
    assert found[1:] == expected[1:]


class Failing(NoisyPairs):
    fails = True

    def __getitem__(self, i):
        if self.fails and i == 9:
            raise KeyError("no such image")
        return super().__getitem__(i)


def test_nothing_moves_when_reading_fails():
    def loader():
        return DataLoader(Failing(np.random.default_rng(1)), 4, shuffle=True, generator=generator())

    def measure(loader):
        with pytest.raises(DataError, match="raised KeyError: 'no such image'"):
            Objective(mlp(), cross_entropy, loader)
        Failing.fails = False

    def after(measure):
        Failing.fails = True
        source = loader()
        measure(source)
        Failing.fails = False
        return [x for x, _ in two_epochs(source)[0]]

    for x, expected in zip(after(measure), after(lambda _: None), strict=True):
        assert torch.equal(x, expected)


def shards(**options):
    return DistributedSampler(Pairs(), 3, 1, **options)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(Pairs(), 4, sampler=shards()), "DistributedSampler .* gives 6 of the 17 .*share"),
        (lambda: DataLoader(Pairs(), 4, sampler=DistributedSampler(Pairs(), 18, 0)), "1 of the 17"),
        (
            lambda: DataLoader(Pairs(), 4, sampler=WeightedRandomSampler([1.0] * N, N)),
            "WeightedRandomSampler draws another set",
        ),
        (
            lambda: DataLoader(Pairs(), 4, sampler=RandomSampler(Pairs(), replacement=True)),
            "RandomSampler draws another set",
        ),
        (lambda: DataLoader(Pairs(), 4, sampler=RandomSampler(Pairs(), num_samples=9)), "gives 9 of the 17"),
        (lambda: DataLoader(Pairs(), 4, sampler=RandomSampler(Pairs(), num_samples=30)), "more than once"),
        (lambda: DataLoader(Pairs(), batch_sampler=Buckets(repeats=1)), "Buckets .* more than once"),
        (lambda: DataLoader(Pairs(), batch_sampler=itertools.repeat([0, 1])), "more than once"),
        (lambda: DataLoader(Pairs(), 4, drop_last=True, shuffle=True), "drop_last=True .* of its 17"),
        (lambda: DataLoader(Shuffling(), 4, drop_last=True), "drop_last=True .* of its Shuffling"),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_a_loader_that_does_not_give_every_example_once_is_refused(loader, message, keep):
    with pytest.raises(DataError, match=message):
        Objective(MODEL, cross_entropy, loader(), keep=keep)


def test_what_a_sampler_leaves_to_others_is_not_measured():
    part = [3, 1, 15, 8, 2]
    check_mean(DataLoader(Pairs(), 2, sampler=SubsetRandomSampler(part)), plain_mean(X[part], Y[part]))
    check_mean(DataLoader(Pairs(), 4, sampler=DistributedSampler(Pairs(), 1, 0)), plain_mean())
    check_mean(DataLoader(Pairs(), 4, sampler=SequentialSampler(X)), plain_mean())
    check_mean(DataLoader(TensorDataset(X[:16], Y[:16]), 4, drop_last=True), plain_mean(X[:16], Y[:16]))


class Sharded(IterableDataset):
    """Gives each worker its part, as the documentation of torch advises."""

    def __iter__(self):
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        yield from ((X[i], Y[i]) for i in range(start, N, step))


class ByWorker(IterableDataset):
    def __iter__(self):
        yield from ((X[i], Y[i]) for i in range(get_worker_info().id, N, 2))


def test_an_iterable_data_set_is_read_in_one_process():
    check_mean(DataLoader(Sharded(), 4, num_workers=2), plain_mean())
    with pytest.raises(DataError, match=r"get_worker_info\(\) is None"):
        Objective(MODEL, cross_entropy, DataLoader(ByWorker(), 4, num_workers=2))


class OneShot(IterableDataset):
    def __init__(self):
        self.stream = ((x, y) for x, y in zip(X, Y, strict=True))

    def __iter__(self):
        return self.stream


def test_a_stream_that_can_be_read_once_is_left_to_training():
    data = OneShot()
    with pytest.raises(DataError, match="they hold a generator"):
        Objective(MODEL, cross_entropy, DataLoader(data, 4))
    assert len(list(data)) == N


class Prefetching:
    """Batches that a thread puts into a queue: a copy would wait for them for ever."""

    def __init__(self):
        self.batches = queue.Queue()
        self.thread = threading.Thread(target=self.batches.put, args=((X, Y),))

    def __iter__(self):
        yield self.batches.get()


def test_a_thread_cannot_be_copied():
    with pytest.raises(DataError, match="they hold a Thread"):
        Objective(MODEL, cross_entropy, Prefetching())


def test_large_arrays_are_not_copied():
    data = TensorDataset(torch.zeros(600, 1000), torch.zeros(600, dtype=torch.long))
    assert next(iter(PrivateCopy([data.tensors[0]]))) is data.tensors[0]
    assert next(iter(PrivateCopy([data.tensors[1]]))) is not data.tensors[1]
    assert len(PrivateCopy(DataLoader(data, 100))) == 6
