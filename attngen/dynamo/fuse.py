"""One graph of Dynamo's: every attention in it that can be lifted is replaced by a fused op.

Whatever goes wrong on the way leaves the place as it was: a compilation never fails, and never changes what a model
computes, because of this module.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from attngen import ir
from attngen.api import load_text
from attngen.build import chosen_build
from attngen.catalog import SpecText
from attngen.diagnostics import InternalError, SpecError
from attngen.dynamo import agree
from attngen.dynamo.absorb import absorb
from attngen.dynamo.buffers import count_on
from attngen.dynamo.contraction import is_contraction
from attngen.dynamo.lifted import Lifted, lift
from attngen.dynamo.nodes import Hints, NotAttention, NotLifted, is_symbolic, name_of, place_of, tensor_of, value_of
from attngen.dynamo.region import Region, candidates, cut
from attngen.dynamo.report import CompileReport, Replaced, Skipped
from attngen.dynamo.rewrite import check_sizes, replace
from attngen.dynamo.spelled import Spelled
from attngen.dynamo.spelled_out import COMPOSITES, spell_out
from attngen.dynamo.spelled_parts import SUMS, settle_triangle, spell_sum, spell_triangle
from attngen.dynamo.unread import unread
from attngen.dynamo.verdicts import remembered
from attngen.dynamo.versions import Version, versions
from attngen.spec.lower import read_spec

_LOG = logging.getLogger("attngen")


def fuse(module: fx.GraphModule, report: CompileReport) -> None:
    """Replace attention in the module and in those that it calls, in place."""
    # The checks take gradients, also where the model is compiled for inference.
    with torch.inference_mode(False), torch.enable_grad():
        for inner in module.modules():
            if isinstance(inner, fx.GraphModule):
                _fuse_graph(inner.graph, report)
                inner.recompile()


def _fuse_graph(graph: fx.Graph, report: CompileReport) -> None:
    unlikely: dict[fx.Node, str] = {}
    told = len(report.skipped)
    triangles = [spelled for node in list(graph.nodes) if (spelled := spell_triangle(node)) is not None]
    for node in list(graph.nodes):
        if name_of(node) in COMPOSITES and node.users:
            _try(lambda node=node: _fuse_spelled(spell_out(node)), node, report, unlikely)  # type: ignore[misc]
        elif name_of(node) in SUMS and is_contraction(node):
            _try(lambda node=node: _fuse_spelled(spell_sum(node)), node, report, unlikely)  # type: ignore[misc]
    for node in [n for n in graph.nodes if is_contraction(n)]:
        _try(lambda node=node: _fuse_second(node), node, report, unlikely)  # type: ignore[misc]
    for triangle in triangles:
        settle_triangle(triangle)
    for node, why in unread(graph):
        if not any(entry.where == place_of(node) for entry in report.skipped[told:]):
            _skip(report, place_of(node), unlikely.get(node, why))


def _try(
    attempt: Callable[[], Replaced | None], node: fx.Node, report: CompileReport, unlikely: dict[fx.Node, str]
) -> None:
    """Attempt, and report what came of it; what doesn't look like attention is noted beside the report."""
    where = place_of(node)
    try:
        replaced = attempt()
    except NotAttention as reason:
        _LOG.debug("%s: not attention: %s", where, reason)
        unlikely[node] = str(reason)
    except NotLifted as reason:
        _skip(report, where, str(reason))
    except Exception as error:  # the model must compile whatever happens here
        _LOG.debug("%s", where, exc_info=True)
        _skip(report, where, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    else:
        if replaced is not None:
            _LOG.info("fused %s", replaced)
            report.replaced.append(replaced)


def _skip(report: CompileReport, where: str, why: str) -> None:
    _LOG.info("not fused %s: %s", where, why)
    report.skipped.append(Skipped(where, why))


def _fuse_spelled(spelled: Spelled) -> Replaced | None:
    """Fuse what has been spelled out; if that fails it goes again."""
    replaced = None
    try:
        assert spelled.second is not None
        replaced = _fuse_second(spelled.second)
    finally:
        if replaced is None:
            spelled.remove()
        else:
            spelled.take_over()
    return replaced


def _fuse_second(second: fx.Node) -> Replaced | None:
    """Try every first contraction that `second` may go with. The last reason is raised if none does."""
    reason: NotLifted | None = None
    for scores, weights, value in candidates(second):
        try:
            return _fuse_either(cut(second, scores, weights, value))
        except NotAttention as error:
            reason = reason or error
        except NotLifted as error:
            reason = error
    if reason is not None:
        raise reason
    return None


def _fuse_either(region: Region) -> Replaced:
    """Try the region with what spreads its leaves first."""
    larger = absorb(region)
    if larger is not None:
        try:
            return _fuse_region(larger)
        except NotLifted as reason:
            _LOG.debug("without what spreads masks: %s", reason)
    return _fuse_region(region)


def _fuse_region(region: Region) -> Replaced:
    lifted = lift(region, Hints())
    check_sizes(lifted)
    again = lift(region, Hints(others=True)) if _is_dynamic(region) else None
    same = None if again is None else {(version.spec, version.band) for version in versions(again)}
    reason = NotLifted("a formula or a mask that depends on a dynamic size")
    for version in versions(lifted):
        if same is not None and (version.spec, version.band) not in same:
            continue
        try:
            _LOG.debug("trying %s", version)
            empty_rows = _may_be_empty(version, lifted, region)
            attention = remembered(version, lifted, empty_rows, lambda v=version, e=empty_rows: _checked(v, lifted, e))  # type: ignore[misc]
        except NotLifted as error:
            reason = error
            continue
        where = place_of(region.second)
        count_on(region.leaves)
        replace(region, lifted, version, attention, _static_atoms(lifted, again))
        named = tuple((name, str(region.leaves[leaf])) for name, leaf in version.inputs)
        return Replaced(where, version.spec, _mask_text(version), _own_scale(version, lifted), named)
    raise reason


def _is_dynamic(region: Region) -> bool:
    """Whether what is lifted with the sizes at hand must come out the same with others."""
    values = [value_of(node) for node in (*region.all_nodes, *region.leaves)]
    sizes = [size for value in values for size in (value.shape if isinstance(value, Tensor) else (value,))]
    return any(is_symbolic(size) for size in sizes)


def _checked(version: Version, lifted: Lifted, empty_rows: bool) -> Callable[..., Any]:
    """The version's op, which agrees with the region."""
    try:
        normalizer: ir.Normalizer = read_spec(version.spec, "<lifted>")
    except SpecError as error:
        raise NotLifted(f"the formula is refused: {error.diagnostics[0].message}") from error
    agree.check_formula(version, normalizer, lifted, empty_rows=empty_rows)
    attention = _built(version.spec)
    agree.check_op(version, attention, lifted, empty_rows=empty_rows)
    return attention


def _may_be_empty(version: Version, lifted: Lifted, region: Region) -> bool:
    """Whether a row may see no key, for the sizes that the graph is for."""
    geometry = lifted.geometry
    n_q, n_k = (max((atom.size for atom in dim), default=1) for dim in (geometry.rows, geometry.keys))
    if not bool(version.band.seen(n_q, n_k).any(-1).all()):
        return True
    sizes = [str(size) for size in tensor_of(region.scores).shape if is_symbolic(size)]
    return version.band.may_be_empty and len(set(sizes)) > 1


def _static_atoms(lifted: Lifted, again: Lifted | None) -> set[str]:
    """Names of the axes whose sizes are numbers: they are the same when other sizes are tried."""
    sizes, others = (
        {atom.name: atom.size for dim in (*g.pair_dims, g.depth, g.channel) for atom in dim}
        for g in (lifted.geometry, (again or lifted).geometry)
    )
    return {name for name, size in sizes.items() if others.get(name) == size}


def _built(spec: str) -> Callable[..., Any]:
    """The op of the spec, from the disk if it was built before."""
    try:
        return load_text(SpecText("<lifted>", spec), {}, chosen_build())
    except (SpecError, InternalError) as error:
        raise NotLifted(f"the formula can't be compiled: {str(error).splitlines()[0]}") from error


def _own_scale(version: Version, lifted: Lifted) -> float | None:
    """The call's scale where it isn't what a call has by itself."""
    usual = max((atom.size for atom in lifted.geometry.depth), default=1) ** -0.5
    return None if abs(version.scale - usual) < 1e-12 else version.scale


def _mask_text(version: Version) -> str:
    band = version.band
    if band.everything:
        return ""
    return f"window ({band.left}, {band.right}), {band.alignment}"
