import contextlib
import copy
import pickle
from typing import Any, Callable, Iterator, List, Tuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.distributed.fsdp as fsdp
from torch import Tensor
from torch.nn import Linear, Parameter, Sequential

from allennlp_ema.shadow_weights import sharded
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights, update
from tests.shadow_weights import shadow_weights_test
from tests.shadow_weights.shadow_weights_test import LAYOUTS

# On the CPU, whose streams torch 2.6 does not have.
needs_fully_shard = pytest.mark.skipif(
    not hasattr(fsdp, "fully_shard") or not hasattr(torch.cpu.Stream, "record_event"),
    reason="this torch has no fully_shard on the CPU",
)


@pytest.fixture
def mesh() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def fully_sharded(mesh: Any) -> Sequential:
    torch.manual_seed(0)
    net = Sequential(Linear(2, 2), Linear(2, 2), Linear(2, 1))
    fsdp.fully_shard(net[0], mesh=mesh)
    return fsdp.fully_shard(net, mesh=mesh)


def named(*tensors: Tensor) -> List[Tuple[str, Tensor]]:
    return [(str(number), tensor) for number, tensor in enumerate(tensors)]


def same_bits(one: Tensor, other: Tensor) -> bool:
    # Not all that can be averaged can be compared.
    parts = [[torch.view_as_real(each.detach())] for each in (one, other)]
    return shadow_weights_test.same_bits(*parts)


class TestComplex:
    @pytest.mark.parametrize("layout", sorted(LAYOUTS))
    @pytest.mark.parametrize(
        ("dtype", "shadow_dtype", "expected"),
        [
            (torch.complex32, None, torch.complex64),
            (torch.complex64, None, torch.complex64),
            (torch.complex64, torch.float64, torch.complex128),
            (torch.complex128, None, torch.complex128),
        ],
    )
    def test_both_parts_are_averaged(
        self, dtype: torch.dtype, shadow_dtype: Any, expected: torch.dtype, layout: str
    ) -> None:
        parts = [torch.randn(3, 4), torch.randn(3, 4)]
        values = LAYOUTS[layout](torch.complex(*parts).to(dtype))
        parameter = Parameter(values.clone(memory_format=torch.preserve_format))
        real = Parameter(torch.view_as_real(values).clone(memory_format=torch.preserve_format))
        both = [ShadowWeights(named(each), dtype=shadow_dtype) for each in (parameter, real)]
        for _ in range(3):
            with torch.no_grad():
                real.mul_(1.5).add_(0.3)
                parameter.copy_(torch.view_as_complex(real.detach().contiguous()))
            for shadow_weights in both:
                update([shadow_weights], [0.3])
        average, average_of_parts = (each.values()["0"] for each in both)
        assert average.dtype == expected and average.shape == parameter.shape
        assert torch.equal(torch.view_as_real(average), average_of_parts)
        raw, averaged = parameter.detach().clone(), average.clone()
        both[0].assign()
        assert same_bits(parameter, averaged.to(dtype))
        assert same_bits(both[0].raw_values()["0"], raw)
        both[0].restore()
        assert same_bits(parameter, raw)
        both[0].load({"0": averaged * 2j})
        assert torch.equal(both[0].values()["0"], averaged * 2j)

    def test_a_copy_that_was_made_while_assigned_is_restored(self) -> None:
        parameter = Parameter(torch.zeros(2, dtype=torch.complex64))
        shadow_weights = ShadowWeights(named(parameter))
        with torch.no_grad():
            parameter.fill_(1 + 2j)
        shadow_weights.assign()
        copied = copy.deepcopy(shadow_weights)
        copied.restore()
        assert copied.parameters[0].tolist() == [1 + 2j] * 2
        assert parameter.tolist() == [0j] * 2 and copied.values()["0"].tolist() == [0j] * 2

    def test_tied_names_have_one_average(self) -> None:
        parameter = Parameter(torch.ones(2, dtype=torch.complex64))
        first, second = ShadowWeights(named(parameter, parameter)).values().values()
        assert first is second


def test_what_is_built_in_inference_mode_works_outside() -> None:
    parameter = Parameter(torch.zeros(3))
    with torch.inference_mode():
        shadow_weights = ShadowWeights(named(parameter))
    torch.nn.init.ones_(parameter)
    update([shadow_weights], [0.25])
    (average,) = shadow_weights.values().values()
    assert average.tolist() == [0.25] * 3 and not average.is_inference()
    factor = Parameter(torch.ones(3))
    (factor * average).sum().backward()
    assert factor.grad is not None and factor.grad.tolist() == [0.25] * 3


class TestIdentity:
    def test_tensors_without_an_address_are_not_tied(self) -> None:
        first, second = torch.empty(2, 2, device="meta"), torch.empty(2, 2, device="meta")
        assert sharded.memory_of(first) != sharded.memory_of(second)
        assert sharded.memory_of(first) == sharded.memory_of(first)

    def test_views_of_the_same_values_are(self) -> None:
        values = torch.ones(2, 2)
        assert sharded.memory_of(values) == sharded.memory_of(values.view(2, 2))
        assert sharded.memory_of(values) != sharded.memory_of(values.t())

    @needs_fully_shard
    def test_shards_are_known_by_their_parts(self, mesh: Any) -> None:
        net = fully_sharded(mesh)
        one, other = net[0].weight, net[1].weight
        assert one.data_ptr() == other.data_ptr()
        assert sharded.memory_of(one) != sharded.memory_of(other)
        assert sharded.memory_of(one) == sharded.memory_of(one.detach())


def quantized() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def fake() -> Tensor:
    with pytest.importorskip("torch._subclasses").FakeTensorMode():
        return torch.ones(2)


class TestObstacle:
    @pytest.mark.parametrize(
        ("parameter", "words"),
        [
            (lambda: torch.empty(2, device="meta"), "is on the meta device"),
            (fake, "is on the meta device"),
            (quantized, "torch.qint8"),
            (lambda: torch.ones(2, dtype=torch.int64), "torch.int64"),
            (lambda: torch.eye(2).to_sparse(), "only dense tensors"),
            (lambda: torch.ones(2, dtype=torch.cfloat).conj(), "a view of conjugates"),
            (lambda: torch.nn.LazyLinear(1).weight, "has no shape"),
        ],
    )
    def test_names_the_parameter_and_what_to_do(
        self, parameter: Callable[[], Tensor], words: str
    ) -> None:
        reason = sharded.obstacle([("fine", Parameter(torch.ones(2))), ("odd", parameter())])
        assert reason is not None and reason.startswith('the parameter "odd" ')
        assert words in reason and reason.endswith('name it in "exclude"')

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64])
    def test_there_is_none(self, dtype: torch.dtype) -> None:
        assert sharded.obstacle([("0", Parameter(torch.ones(2, 0, dtype=dtype)))]) is None

    @needs_fully_shard
    @pytest.mark.parametrize("use_orig_params", [False, True])
    def test_the_older_sharding_is_told_of_the_newer(
        self, mesh: Any, use_orig_params: bool
    ) -> None:
        shadow_weights = ShadowWeights((layer := Linear(2, 2)).named_parameters())
        net = fsdp.FullyShardedDataParallel(
            layer, device_id=torch.device("cpu"), use_orig_params=use_orig_params
        )
        reason = sharded.obstacle(list(net.named_parameters()))
        assert reason is not None and "fully_shard" in reason
        if use_orig_params:
            # What was sharded since is refused before anything is assigned.
            raw = [parameter.detach().clone() for parameter in net.parameters()]
            with pytest.raises(RuntimeError, match="fully_shard"):
                shadow_weights.assign()
            assert all(map(torch.equal, raw, net.parameters()))
            assert not shadow_weights.is_assigned

    @needs_fully_shard
    def test_gathered_parameters_are_not_the_model_s(self, mesh: Any) -> None:
        net = fully_sharded(mesh)
        assert sharded.obstacle(list(net.named_parameters())) is None
        net(torch.ones(1, 2))
        reason = sharded.obstacle(list(net.named_parameters()))
        assert reason is not None and reason.startswith('the parameter "1.weight" is what fully_')
        net.reshard()
        assert sharded.obstacle(list(net.named_parameters())) is None


@needs_fully_shard
class TestFullyShard:
    """With one process; those with two are in `fully_shard_test.py`."""

    @pytest.fixture
    def net(self, mesh: Any) -> Any:
        return fully_sharded(mesh)

    @pytest.fixture
    def shadow_weights(self, net: Any) -> ShadowWeights:
        shadow_weights = ShadowWeights(list(net.named_parameters()))
        # Now the averages are half of the parameters.
        for own in shadow_weights.local_values:
            own.mul_(2.0)
        return shadow_weights

    def test_values_have_the_parameters_placements_and_are_never_copied(
        self, net: Any, shadow_weights: ShadowWeights
    ) -> None:
        for (name, value), shadow in zip(shadow_weights.values().items(), shadow_weights.shadows):
            parameter = net.get_parameter(name)
            assert type(value) is type(parameter) and value.placements == parameter.placements
            assert (value.shape, value.stride()) == (parameter.shape, parameter.stride())
            assert value.to_local().data_ptr() == shadow.data_ptr()
            assert torch.equal(value.full_tensor() * 2, parameter.full_tensor())

    def test_other_dtypes_and_meshes(self, net: Any) -> None:
        shadow_weights = ShadowWeights(list(net.named_parameters()), dtype=torch.float64)
        value = shadow_weights.values()["0.weight"]
        assert value.dtype == value.to_local().dtype == torch.float64
        # As with parameters that are offloaded from a GPU.
        with mock.patch.object(type(value.device_mesh), "device_type", "cuda"):
            value = shadow_weights.values()["0.weight"]
        assert value.to_local().data_ptr() == shadow_weights.shadows[0].data_ptr()

    def test_loads_whole_values_and_shards(self, shadow_weights: ShadowWeights) -> None:
        saved = {name: value.full_tensor() + 1 for name, value in shadow_weights.values().items()}
        shadow_weights.load(saved)
        loaded = {name: value.full_tensor() for name, value in shadow_weights.values().items()}
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
        other = ShadowWeights(list(shadow_weights.raw_values().items()))
        other.load(shadow_weights.values())
        assert all(map(torch.equal, other.shadows, shadow_weights.shadows))

    def test_follows_a_part_that_is_another_tensor_by_now(
        self, net: Any, shadow_weights: ShadowWeights
    ) -> None:
        update([shadow_weights], [1.0])
        parameter = net[0].weight
        parameter._local_tensor = torch.full_like(parameter._local_tensor, 7.0)
        update([shadow_weights], [1.0])
        assert shadow_weights.values()["0.weight"].full_tensor().unique().tolist() == [7.0]

    @pytest.mark.parametrize("is_copied", [False, True])
    def test_a_swap_reaches_what_is_gathered_of_its_own_model(
        self, mesh: Any, net: Any, shadow_weights: ShadowWeights, is_copied: bool
    ) -> None:
        inputs, other = torch.ones(1, 2), fully_sharded(mesh)
        raw, _ = net(inputs), other(inputs)
        if is_copied:
            copied = copy.copy(shadow_weights)
            copied._gathering_modules = copy.deepcopy(shadow_weights._gathering_modules)
            shadow_weights = copied
        shadow_weights.assign()
        averaged = net(inputs)
        shadow_weights.restore()
        assert torch.equal(net(inputs), raw) and not torch.equal(averaged, raw)
        # The last layers of the other one are the root's, which keeps them.
        assert not hasattr(other[1].weight, "to_local")

    def test_a_swap_after_a_forward_pass_that_was_broken_off(
        self, net: Any, shadow_weights: ShadowWeights
    ) -> None:
        inputs = torch.ones(1, 2)
        raw = net(inputs)
        shadow_weights.assign()
        with mock.patch.object(net[2], "forward", side_effect=ValueError):
            with contextlib.suppress(ValueError):
                net(inputs)
        shadow_weights.restore()
        assert torch.equal(net(inputs), raw)


def test_modules_are_not_pickled() -> None:
    modules = sharded.GatheringModules()
    modules.reshard([])
    assert vars(pickle.loads(pickle.dumps(modules))) == {"_modules": None}


@pytest.mark.skipif(not hasattr(fsdp, "FSDPModule"), reason="this torch has no fully_shard")
def test_nothing_is_looked_for_where_there_are_no_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is left when a model was sharded before.
    sharded_before = type("ShardedBefore", (fsdp.FSDPModule,), {})
    assert sharded_before in fsdp.FSDPModule.__subclasses__() and not dist.is_initialized()

    def search() -> None:
        raise AssertionError("all objects of the process were gone through")

    monkeypatch.setattr("gc.get_objects", search)
    assert sharded.obstacle([("p", torch.ones(2))]) is None
