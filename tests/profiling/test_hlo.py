"""What a compiled program moves, against XLA's own count where it has one, and by hand where it has none."""

import jax
import jax.numpy as jnp
import pytest
from difflax.core.types import Conditioning
from difflax.profiling.hlo import CompiledProgram

from tests.models.test_blocks import mmdit, unet

TEXT = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}
%goes_on (p: (bf16[16,4], f32[8])) -> bf16[16,4] {
  %again = bf16[16,4]{1,0} all-gather(%p), channel_id=7, dimensions={0}
}
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %reduced = f32[8]{0} all-reduce(%x), replica_groups={}, to_apply=%add
  %part = bf16[16,4]{1,0} fusion(%x), kind=kCustom, calls=%goes_on
}
%condition (p: (s32[], f32[8])) -> pred[] {
  %end = s32[]{:T(128)} constant(3)
  %count = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %end), direction=LT
}
ENTRY %main (p0: f32[4]) -> f32[8] {
  %gathered = bf16[16,4]{1,0} all-gather(%p0), channel_id=7, dimensions={0}
  %loop = (s32[], f32[8]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %second = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  %started = (f32[2], f32[8]{0}) all-gather-start(%p0), dimensions={0}
  %both = (f32[3]{0}, f32[5]{0}) all-reduce(%a, %b), to_apply=%add
}
"""


def test_bytes_of_collectives():
    """Loops as often as the compiler notes, or the condition tells; one channel is one collective."""
    found = CompiledProgram(TEXT).collective_bytes()
    assert found == {"all-gather": 16 * 4 * 2 + 8 * 4, "all-reduce": min(6, 3) * 8 * 4 + (3 + 5) * 4}


def compiled(function, *shapes):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()


@pytest.mark.slow
@pytest.mark.parametrize("make", [mmdit, unet])
def test_memory_traffic_without_loops_is_what_xla_counts(make):
    model = make()

    def loss(params):
        conditioning = Conditioning(context=jnp.ones((2, 3, 8)), pooled=jnp.ones((2, 8)))
        return model.apply(params, jnp.ones((2, 4, 4, 4)), jnp.ones(2), conditioning).sum()

    program = jax.jit(jax.grad(loss)).lower(model.abstract()).compile()
    counted = program.cost_analysis()["bytes accessed"]
    assert CompiledProgram(program.as_text()).accessed_bytes() == pytest.approx(counted, rel=0.01)


def test_memory_traffic_of_a_loop_grows_with_its_rounds():
    """A round of ``x @ w`` reads one ``w`` of the stack, reads and writes ``x``; XLA counts one round."""
    n = 256

    def chain(x, stack):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

    few, many = (compiled(chain, (n, n), (rounds, n, n)) for rounds in (4, 24))
    growth = (
        CompiledProgram(many.as_text()).accessed_bytes() - CompiledProgram(few.as_text()).accessed_bytes()
    )
    array = 4 * n * n
    # Slice: read, written; product: two read, one written; copies between rounds are the compiler's choice.
    assert 20 * 3 * array <= growth <= 20 * 8 * array
    assert many.cost_analysis()["bytes accessed"] < 2 * few.cost_analysis()["bytes accessed"]


def test_the_dearest_branch_counts():
    """Of ``x @ x`` or ``x`` as it is: a product reads two arrays and writes one."""
    n = 256

    def choose(flag, x):
        return jax.lax.cond(flag[0] > 0, lambda x: x @ x, lambda x: x, x)

    array = 4 * n * n
    moved = CompiledProgram(compiled(choose, (1,), (n, n)).as_text()).accessed_bytes()
    assert 2 * array <= moved < 7 * array  # a CPU copies into and out of branches


def test_what_stays_on_the_chip_is_no_memory_traffic_and_a_slice_is_not_the_whole():
    text = """
%inside (a: f32[9,8], i: s32[]) -> f32[1,8] {
  %a = f32[9,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %taken = f32[1,8]{1,0} dynamic-slice(%a, %i), dynamic_slice_sizes={1,8}
}
ENTRY %main (x: f32[9,8], i: s32[]) -> f32[9,8] {
  %x = f32[9,8]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)S(2)} parameter(1)
  %slice = f32[1,8]{1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%inside
  %twice = f32[1,8]{1,0:T(8,128)} add(%slice, %slice)
  ROOT %put = f32[9,8]{1,0:T(8,128)} dynamic-update-slice(%x, %twice, %i)
}
"""
    row = 8 * 4
    assert CompiledProgram(text).accessed_bytes() == row + row + (row + row)
