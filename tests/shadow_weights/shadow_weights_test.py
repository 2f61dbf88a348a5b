import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from allennlp_ema.shadow_weights import blocks, kernels
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights, update
from tests.support.allocations import bytes_taken

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

SHAPES = [(), (0,), (1,), (3, 0, 2), (5,), (3, 4), (2, 3, 4), (37,)]

LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.transpose(0, -1) if tensor.dim() else tensor,
    # A view with gaps between its values.
    "strided": lambda tensor: torch.stack([tensor, tensor], -1)[..., 1],
    "offset": lambda tensor: torch.stack([tensor, tensor])[1],
    "channels_last": lambda tensor: (
        tensor.reshape(1, 1, 1, -1).repeat(2, 3, 1, 1).to(memory_format=torch.channels_last)
    ),
}


@pytest.fixture(scope="class")
def small_blocks():
    """Even a few values are worked on in several pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_CPU_BLOCK", 8)
        yield


def bits(tensor: Tensor) -> Tensor:
    """The values as they are in memory, so that -0.0 is not 0.0 and a NaN equals itself."""
    return tensor.detach().clone().contiguous().view(INTEGERS[tensor.element_size()])


def same_bits(tensors, others):
    tensors, others = list(tensors), list(others)
    return len(tensors) == len(others) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        for a, b in zip(tensors, others)
    )


def copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


@st.composite
def values(draw, dtype, shape, finite=True):
    """Values of all magnitudes, the largest and the smallest, and unless `finite` inf and NaN."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    # What fits into float32 fits into a shadow of any dtype.
    limits = torch.finfo(torch.float32 if dtype == torch.float64 else dtype)
    scale = 10.0 ** draw(st.integers(-8, 4))
    tensor = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
    special = [0.0, limits.max, limits.min, limits.tiny, limits.tiny / 4]
    special += [] if finite else [-0.0, float("inf"), -float("inf"), float("nan")]
    places = tensor.view(-1)[::2][: len(special)]
    places.copy_(torch.tensor(special, dtype=dtype)[: len(places)])
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](tensor)


@st.composite
def parameter_lists(draw, finite=True, dtypes=DTYPES):
    """Parameters of several dtypes, shapes and layouts, some of them tied, some overlapping."""
    parameters = []
    for _ in range(draw(st.integers(1, 4))):
        dtype, shape = draw(st.sampled_from(dtypes)), draw(st.sampled_from(SHAPES))
        parameters.append(Parameter(draw(values(dtype, shape, finite))))
    if draw(st.booleans()):
        tied = draw(st.sampled_from(parameters))
        # The same parameter under two names, or two parameters of the same memory.
        parameters.append(tied if draw(st.booleans()) else Parameter(tied.detach()))
    if draw(st.booleans()):
        flat = Parameter(draw(values(draw(st.sampled_from(dtypes)), (12,), finite))).detach()
        parameters += [Parameter(flat[:8]), Parameter(flat[4:])]
    return [(str(number), parameter) for number, parameter in enumerate(parameters)]


weights = st.floats(0, 1) | st.sampled_from([1e-7, 1e-4, 0.5])
shadow_dtypes = st.sampled_from([None, torch.float32, torch.float64])


def parameters_of(named_parameters):
    return [parameter for _, parameter in named_parameters]


def disturb(named_parameters, seed):
    """Other values of the same dtypes, which are also what the gradient steps of training do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in named_parameters:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise.to(parameter.dtype))


@pytest.mark.usefixtures("small_blocks")
class TestExchange:
    @given(parameter_lists(finite=False), shadow_dtypes, st.booleans(), st.integers(0, 99))
    def test_parameters_come_back_bit_for_bit(self, named_parameters, dtype, keep_dtype, seed):
        shadow_weights = ShadowWeights(named_parameters, dtype, keep_dtype=keep_dtype)
        shadows = copies(shadow_weights.values().values())
        initial = [
            shadow.to(parameter.dtype)
            for shadow, parameter in zip(shadows, parameters_of(named_parameters))
        ]
        disturb(named_parameters, seed)
        raw = copies(parameters_of(named_parameters))
        for _ in range(2):
            shadow_weights.assign()
            assert shadow_weights.is_assigned
            for parameter, value in zip(parameters_of(named_parameters), initial):
                assert torch.allclose(parameter, value, rtol=0, atol=0, equal_nan=True)
            assert same_bits(shadow_weights.raw_values().values(), raw)
            assert same_bits(shadow_weights.values().values(), shadows)
            shadow_weights.restore()
            assert not shadow_weights.is_assigned
            assert same_bits(parameters_of(named_parameters), raw)
            assert same_bits(shadow_weights.values().values(), shadows)

    def test_a_parameter_of_another_shape_is_named_and_nothing_changed(self):
        parameters = [(name, Parameter(torch.zeros(3))) for name in ("first", "second")]
        shadow_weights = ShadowWeights(parameters)
        for (_, parameter), size in zip(parameters, (3, 4)):
            parameter.data = torch.ones(size)
        with pytest.raises(RuntimeError, match=r'"second" has shape \(4,\) by now'):
            shadow_weights.assign()
        assert not shadow_weights.is_assigned and all(p.all() for _, p in parameters)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_gets_the_average_rounded_once(self, dtype):
        parameter = Parameter(torch.zeros(1000, dtype=dtype))
        shadow_weights = ShadowWeights([("p", parameter)])
        average = torch.rand(1000, generator=torch.Generator().manual_seed(0))
        shadow_weights.load({"p": average})
        shadow_weights.assign()
        assert torch.equal(parameter, average.to(dtype))
        assert torch.equal(shadow_weights.values()["p"], average)


@pytest.mark.usefixtures("small_blocks")
class TestLerp:
    @given(parameter_lists(), shadow_dtypes, weights)
    def test_the_average_of_a_constant_is_bit_equal_to_it(self, named_parameters, dtype, weight):
        constant = copies(parameters_of(named_parameters))
        alone, first, second = (ShadowWeights(named_parameters, dtype) for _ in range(3))
        for _ in range(3):
            update([alone], [weight])
            update([first, second], [weight, 1.0 - weight])
            second.lerp(first, weight)
        for member in (alone, first, second):
            for value, expected in zip(member.values().values(), constant):
                # Bit for bit but for the sign of a zero, which equality leaves out.
                assert torch.equal(value, expected.to(value.dtype))

    @given(
        parameter_lists(dtypes=[torch.float32, torch.float64]),
        weights,
        st.integers(0, 99),
    )
    def test_all_kernels_agree(self, named_parameters, weight, seed):
        disturb(named_parameters, seed)
        single = copies(parameters_of(named_parameters))
        members = {
            name: ShadowWeights(named_parameters)
            for name in ("direct", "one pass: first", "one pass: second", "without foreach")
        }
        towards = ShadowWeights(named_parameters)
        disturb(named_parameters, seed + 1)
        update([members["direct"]], [weight])
        update([members["one pass: first"], members["one pass: second"]], [weight, weight])
        with pytest.MonkeyPatch.context() as patch:
            # As on a torch older than 2.
            patch.setattr(kernels, "_HAS_FOREACH_LERP", False)
            patch.setattr(kernels, "_HAS_FOREACH_COPY", False)
            update([members["without foreach"]], [weight])
        other = ShadowWeights(named_parameters)
        towards.lerp(other, weight)
        members["towards other shadows"] = towards
        for shadow, parameter in zip(single, parameters_of(named_parameters)):
            shadow.lerp_(parameter.detach(), weight)
        for name, member in members.items():
            for value, expected in zip(member.values().values(), single):
                # One rounding apart: a vector instruction may fuse what a single one does not.
                tolerance = 2 * torch.finfo(value.dtype).eps
                assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance), name

    @given(parameter_lists(dtypes=[torch.float16, torch.bfloat16]), st.floats(0, 1))
    def test_half_precision_is_averaged_in_float32(self, named_parameters, weight):
        shadow_weights = ShadowWeights(named_parameters)
        initial = [value.clone() for value in shadow_weights.values().values()]
        disturb(named_parameters, 1)
        update([shadow_weights], [weight])
        for value, old, new in zip(
            shadow_weights.values().values(), initial, parameters_of(named_parameters)
        ):
            assert value.dtype == torch.float32
            expected = old.double() + weight * (new.detach().double() - old.double())
            limit = 4 * torch.finfo(torch.float32).eps * (old.abs().double() + new.abs().double())
            assert ((value.double() - expected).abs() <= limit + 1e-38).all()

    def test_the_weight_of_one_pass_is_each_members_own(self):
        parameter = Parameter(torch.ones(3))
        members = [ShadowWeights([("p", parameter)]) for _ in range(4)]
        with torch.no_grad():
            parameter.fill_(2.0)
        update(members, [0.0, 0.25, 0.5, 1.0])
        assert [member.values()["p"][0].item() for member in members] == [1.0, 1.25, 1.5, 2.0]

    def test_a_weight_of_zero_leaves_the_shadows_alone_whatever_the_parameters_hold(self):
        parameter = Parameter(torch.ones(3))
        members = [ShadowWeights([("p", parameter)]) for _ in range(2)]
        with torch.no_grad():
            parameter.fill_(float("inf"))
        update(members, [0.0, 0.5])
        assert torch.equal(members[0].values()["p"], torch.ones(3))
        update(members[:1], [0.0])
        assert torch.equal(members[0].values()["p"], torch.ones(3))

    def test_members_of_one_pass_may_follow_different_parameters(self):
        first, second = Parameter(torch.ones(2)), Parameter(torch.ones(3, dtype=torch.float16))
        both = ShadowWeights([("first", first), ("second", second)])
        one = ShadowWeights([("second", second)], dtype=torch.float64)
        with torch.no_grad():
            first.fill_(2.0)
            second.fill_(3.0)
        update([both, one], [0.5, 0.25])
        assert torch.equal(both.values()["first"], torch.full((2,), 1.5))
        assert torch.equal(both.values()["second"], torch.full((3,), 2.0))
        assert torch.equal(one.values()["second"], torch.full((3,), 1.5, dtype=torch.float64))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_parameters_whose_memory_moved_are_followed(self, dtype):
        parameter = Parameter(torch.zeros(4, dtype=dtype))
        shadow_weights = ShadowWeights([("p", parameter)])
        update([shadow_weights], [0.5])
        parameter.data = torch.ones(4, dtype=dtype)
        update([shadow_weights], [0.5])
        assert torch.equal(shadow_weights.values()["p"].double(), torch.full((4,), 0.5).double())

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_parameters_that_were_transposed_in_their_memory_are_followed(self, dtype):
        parameter = Parameter(torch.zeros(2, 2, dtype=dtype))
        shadow_weights = ShadowWeights([("p", parameter)])
        update([shadow_weights], [0.5])
        parameter.data = parameter.data.t()
        with torch.no_grad():
            parameter.copy_(torch.tensor([[0, 2], [4, 6]]))
        update([shadow_weights], [0.5])
        assert shadow_weights.values()["p"].tolist() == [[0.0, 1.0], [2.0, 3.0]]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_parameters_that_are_converted_are_followed(self, dtype):
        module = torch.nn.Linear(2, 2)
        shadows = ShadowWeights(module.named_parameters())
        update([shadows], [0.5])
        module.to(dtype)
        with torch.no_grad():
            module.weight.fill_(4.0)
        before = shadows.values()["weight"].clone()
        update([shadows], [0.5])
        assert torch.allclose(shadows.values()["weight"], (before + 4.0) / 2, rtol=1e-6)

    def test_tied_parameters_move_once(self):
        parameter = Parameter(torch.zeros(4))
        shadow_weights = ShadowWeights([("a", parameter), ("b", parameter)])
        with torch.no_grad():
            parameter.fill_(1.0)
        update([shadow_weights], [0.5])
        assert shadow_weights.names == ["a", "b"]
        assert len(shadow_weights.shadows) == 1
        assert shadow_weights.values()["a"] is shadow_weights.values()["b"] or torch.equal(
            shadow_weights.values()["a"], shadow_weights.values()["b"]
        )
        assert torch.equal(shadow_weights.values()["b"], torch.full((4,), 0.5))
        shadow_weights.assign()
        assert torch.equal(parameter, torch.full((4,), 0.5))

    def test_parameters_that_are_tied_later_keep_a_shadow_each(self):
        one, other = Parameter(torch.zeros(2)), Parameter(torch.full((2,), 8.0))
        shadow_weights = ShadowWeights([("one", one), ("other", other)])
        other.data = one.data
        with torch.no_grad():
            one.fill_(4.0)
        update([shadow_weights], [0.5])
        assert shadow_weights.values()["one"].tolist() == [2.0, 2.0]
        assert shadow_weights.values()["other"].tolist() == [6.0, 6.0]
        shadow_weights.assign()
        shadow_weights.restore()
        assert one.tolist() == [4.0, 4.0]

    def test_needs_no_gradient_and_gives_none(self):
        parameter = Parameter(torch.zeros(4))
        shadow_weights = ShadowWeights([("p", parameter)])
        update([shadow_weights], [0.5])
        shadow_weights.assign()
        assert parameter.requires_grad and parameter.is_leaf and parameter.grad is None
        assert not any(value.requires_grad for value in shadow_weights.values().values())
        assert not any(value.requires_grad for value in shadow_weights.raw_values().values())


class TestMemory:
    def test_needs_no_second_copy(self):
        parameters = [(str(n), Parameter(torch.rand(100_000))) for n in range(40)]
        num_bytes = 40 * 100_000 * 4
        shadow_weights, taken = bytes_taken(lambda: ShadowWeights(parameters))
        assert taken == shadow_weights.num_bytes == num_bytes
        assert shadow_weights.num_values == 4_000_000
        for call in (
            lambda: update([shadow_weights], [0.1]),
            shadow_weights.assign,
            shadow_weights.restore,
        ):
            _, taken = bytes_taken(call)
            assert taken < num_bytes / 10


class TestValues:
    @given(parameter_lists(), shadow_dtypes)
    def test_never_a_copy(self, named_parameters, dtype):
        shadow_weights = ShadowWeights(named_parameters, dtype)
        for assigned in (False, True):
            if assigned:
                shadow_weights.assign()
            for get in (shadow_weights.values, shadow_weights.raw_values):
                first, second = get(), get()
                assert list(first) == shadow_weights.names
                assert all(first[n].data_ptr() == second[n].data_ptr() for n in first)

    def test_name_of(self):
        parameter = Parameter(torch.zeros(2))
        shadow_weights = ShadowWeights([("a", parameter), ("b", parameter)])
        assert shadow_weights.name_of(parameter) == "a"
        assert shadow_weights.name_of(Parameter(torch.zeros(2))) is None

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("assigned", [False, True])
    def test_load_copies_to_where_the_values_are(self, dtype, assigned):
        parameter = Parameter(torch.full((3,), 0.5, dtype=dtype))
        shadow_weights = ShadowWeights([("p", parameter)])
        place = shadow_weights.values()["p"].data_ptr()
        if assigned:
            shadow_weights.assign()
        shadow_weights.load({"p": torch.full((3,), 0.25)})
        assert torch.equal(shadow_weights.values()["p"].double(), torch.full((3,), 0.25).double())
        if assigned:
            assert torch.equal(parameter, torch.full((3,), 0.25, dtype=dtype))
            shadow_weights.restore()
        assert torch.equal(parameter, torch.full((3,), 0.5, dtype=dtype))
        assert shadow_weights.values()["p"].data_ptr() == place
        assert torch.equal(shadow_weights.values()["p"].double(), torch.full((3,), 0.25).double())
