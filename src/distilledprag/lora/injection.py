"""Runs a model with adapters, one for each row, without touching its weights; and merges one adapter into the weights.

    LoRA     hidden states x (N, T, d_in) --> frozen linear W ----------------------> (+) --> output (N, T, d_out)
                                       \\--> A^T (N, d_in, r) --> scaling --> B^T (N, r, d_out) --/

    states   output of layer L (N, T, D), at the k-th mask token of a prompt: row k of its state adapter (n, D)

N = model rows (batch, times beams), T = tokens, B = adapters, r = rank, d_in / d_out = sizes of the linear module, D = hidden
size. Injection always computes two thin products; only merging forms the dense (d_out, d_in) matrix B A, one module at a time.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from distilledprag.base.architecture import backbone, changed_layer_output, decoder_layers
from distilledprag.errors import IncompatibleBaseError, InputError
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraBatch, LoraWeights

_changed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_lock = threading.Lock()


def target_linear(model: nn.Module, key: str, d_in: int, d_out: int) -> nn.Linear:
    """The linear module that `key` names; `IncompatibleBaseError` when it is missing or sized otherwise."""
    try:
        module = backbone(model).get_submodule(key)
    except AttributeError as error:
        raise IncompatibleBaseError(
            f"The adapter changes {key!r}, which {type(model).__name__} does not have. Load the base "
            "model that the adapter was made for."
        ) from error
    if not isinstance(module, nn.Linear):
        raise IncompatibleBaseError(
            f"{key!r} is a {type(module).__name__}, not a linear layer. Load the base model without other adapters."
        )
    if (module.in_features, module.out_features) != (d_in, d_out):
        raise IncompatibleBaseError(
            f"The adapter maps {d_in} to {d_out} values at {key!r}, the loaded base model maps "
            f"{module.in_features} to {module.out_features}. Load the base model that the adapter was made "
            "for."
        )
    return module


@contextlib.contextmanager
def reserve(model: nn.Module) -> Iterator[None]:
    """Hold a model for one injection or merge; a second one meanwhile is refused with `RuntimeError`."""
    decoder = backbone(model)
    with _lock:
        if decoder in _changed:
            raise RuntimeError(
                "This model already has adapters applied. Leave the surrounding `inject` or `merged` "
                "block first, or put all rows' adapters into one `LoraBatch`."
            )
        _changed.add(decoder)
    try:
        yield
    finally:
        with _lock:
            _changed.discard(decoder)


@contextlib.contextmanager
def inject(model: nn.Module, batch: LoraBatch, row_index: Tensor | None = None) -> Iterator[None]:
    """While the block runs, model row n computes with adapter row_index[n]; afterwards nothing has changed.

    model: a causal language model (or its decoder) of a family in `architecture`, frozen or not, any dtype.
    batch: the adapters; moved to the model's device and dtype. Gradients flow to its tensors.
    row_index: (N,) integers, -1 for "no adapter"; rows may share an adapter. With `generate` and k beams or k
        returned sequences: `torch.arange(B).repeat_interleave(k)`. Without it, row n takes adapter n, and a
        batch of one adapter serves every row.
    Tensors without gradients may be read at entry only: do not change them inside the block. Tensors with
    gradients are read at every call, so an optimizer step counts at once. With gradient checkpointing, call
    `backward` inside the block. Every thread that runs the model meanwhile gets the adapters.
    Raises `IncompatibleBaseError` when the adapters do not fit the model, `ValueError` for a wrong row_index
    or number of rows, `RuntimeError` inside another `inject` or `merged` block of this model.
    """
    with inject_parts(model, [(batch, row_index)]):
        yield


@contextlib.contextmanager
def inject_parts(model: nn.Module, parts: Sequence[tuple[LoraBatch, Tensor | None]]) -> Iterator[None]:
    """`inject` with several batches and their row indices at once: adapters of very different ranks need not be padded to the
    largest. A row that several batches name takes the sum of its adapters' changes."""
    checked = [(batch, None if row_index is None else _checked_rows(row_index, batch)) for batch, row_index in parts]
    with reserve(model), contextlib.ExitStack() as hooks:
        for batch, rows in checked:
            for key, (a, b) in batch.modules.items():
                linear = target_linear(model, key, d_in=a.shape[2], d_out=b.shape[1])
                handle = linear.register_forward_hook(_hook(a, b, batch.scaling, rows, linear.weight))
                hooks.callback(handle.remove)
        yield


@contextlib.contextmanager
def written_states(model: nn.Module, adapters: Sequence[StateAdapter | None], is_mask: Tensor) -> Iterator[None]:
    """While the block runs, without gradients, a pass over N prompts of T tokens has the adapters' rows at their mask tokens.

    adapters: one per prompt, each with a layer of its own; None leaves a prompt as it is.
    is_mask: (N, T) bool, where the prompts have mask tokens. Passes of another size (an answer's tokens) are left alone.
    Raises InputError unless every adapter has as many rows as its prompt has masks, and a layer and width of the model's.
    """
    layers, width = len(decoder_layers(model)), int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    if len(adapters) != len(is_mask):
        raise InputError(f"{len(is_mask)} prompts came with {len(adapters)} state adapters; send one per prompt")
    for number, (adapter, masks) in enumerate(zip(adapters, is_mask.sum(1).tolist(), strict=True), start=1):
        if adapter is None:
            continue
        if masks != adapter.count:
            raise InputError(f"prompt {number} has {masks} masks, its adapter {adapter.count} rows; send those made together")
        if not 0 <= adapter.layer < layers or adapter.rows.shape[1] != width:
            raise InputError(
                f"the state adapter of prompt {number} is for layer {adapter.layer} of a model of width "
                f"{adapter.rows.shape[1]}; this one has layers 0 to {layers - 1} of width {width}"
            )
    with contextlib.ExitStack() as hooks:
        for layer in sorted({adapter.layer for adapter in adapters if adapter is not None}):
            own = [number for number, adapter in enumerate(adapters) if adapter is not None and adapter.layer == layer]
            rows, positions = is_mask[own].nonzero(as_tuple=True)
            states = torch.cat([adapters[number].rows for number in own])  # type: ignore[union-attr]
            place = torch.tensor(own, device=rows.device)[rows], positions
            hooks.enter_context(changed_layer_output(model, layer, _writing(is_mask.shape, place, states)))
        yield


def _writing(shape: torch.Size, place: tuple[Tensor, Tensor], states: Tensor) -> Callable[[Tensor], Tensor]:
    """Hidden states (N, T, D) -> the same with `states` (n, D) at `place`, the rows (n,) and positions (n,)."""

    def write(hidden: Tensor) -> Tensor:
        if hidden.shape[:2] != shape:
            return hidden
        # Fresh from a sum, so it can be changed in its place.
        return hidden.index_put_([index.to(hidden.device) for index in place], states.to(hidden.device, hidden.dtype))

    return write


def _checked_rows(row_index: Tensor, batch: LoraBatch) -> Tensor:
    """row_index as (N,) int64, every entry -1 or an adapter of the batch (unchecked for an empty batch)."""
    if row_index.dim() != 1 or row_index.is_floating_point() or row_index.dtype == torch.bool:
        raise ValueError(
            f"row_index must be a one-dimensional integer tensor, one entry per model row; got "
            f"{tuple(row_index.shape)} of {row_index.dtype}."
        )
    rows = row_index.to(torch.int64)
    if batch.modules and rows.numel() and not -1 <= int(rows.min()) <= int(rows.max()) < batch.size:
        raise ValueError(
            f"row_index names adapters {int(rows.min())} to {int(rows.max())}, but the batch has adapters "
            f"0 to {batch.size - 1} (-1 means none)."
        )
    return rows


def _hook(
    a: Tensor, b: Tensor, scaling: float, rows: Tensor | None, weight: Tensor
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """The forward hook of one linear module: adds scaling * B A x to its output, in the rows that have an adapter.

    a (B, r, d_in), b (B, d_out, r); weight only tells the module's device and dtype.
    """
    read, written = _single_entries(a), _single_entries(b.mT)
    served, adapters = (None, None) if rows is None else _served(rows, a.shape[0], weight.device)
    # Done once where no gradient needs the graph: `generate` calls the hook for every token.
    if not (a.requires_grad or b.requires_grad):
        dtype = weight.dtype if weight.is_floating_point() else a.dtype
        a, b = (_chosen(factor, adapters).to(device=weight.device, dtype=dtype) for factor in (a, b))
        adapters = None
    expected = rows.numel() if rows is not None else a.shape[0] if a.shape[0] > 1 else None

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if expected not in (None, x.shape[0]):
            raise ValueError(
                f"The model runs {x.shape[0]} rows, but adapters are given for {expected}. Pass a `row_index` "
                "with one entry per model row; with beams: `torch.arange(adapters).repeat_interleave(beams)`."
            )
        row_a, row_b = (_chosen(factor, adapters).to(device=output.device, dtype=output.dtype) for factor in (a, b))
        if served is None:
            return _add_lora(x.to(output.dtype), output, row_a, row_b, scaling, read, written)
        if not served.numel():
            return output
        own_x, own_output = x.index_select(0, served).to(output.dtype), output.index_select(0, served)
        changed = _add_lora(own_x, own_output, row_a, row_b, scaling, read, written)
        put = output.index_copy if torch.is_grad_enabled() else output.index_copy_
        return put(0, served, changed)

    return hook


def _served(rows: Tensor, adapters: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Of row_index (N,): the model rows that have an adapter, None when all have; and their adapters, None when these are all
    of the batch's in their order, or the batch has one only, which all of these rows then share."""
    rows = rows.to(device)
    has_adapter = rows >= 0
    chosen = rows[has_adapter]
    as_they_are = adapters == 1 or torch.equal(chosen, torch.arange(adapters, device=device))
    return None if bool(has_adapter.all()) else has_adapter.nonzero().flatten(), None if as_they_are else chosen


def _single_entries(factor: Tensor) -> Tensor | None:
    """(r,) the entry of x or of the output that each rank stands for, where a factor (B, r, X) only names entries: one 1 in
    every row, zeros else, the same for all B. None for other factors and for those with gradients."""
    if factor.requires_grad or not factor.numel():
        return None
    first = factor[0]
    if not ((first != 0).sum(-1) == 1).all() or not (first.amax(-1) == 1).all():
        return None
    return first.argmax(-1) if factor.stride(0) == 0 or bool((factor == first).all()) else None


def _chosen(factor: Tensor, adapters: Tensor | None) -> Tensor:
    """(B, ...) -> (n, ...): the adapters that the rows with one use."""
    return factor if adapters is None else factor.index_select(0, adapters.to(factor.device))


def _add_lora(
    x: Tensor, output: Tensor, a: Tensor, b: Tensor, scaling: float, read: Tensor | None = None, written: Tensor | None = None
) -> Tensor:
    """output + scaling * (x A^T) B^T, row by row; one adapter serves all rows.

    x (N, ..., d_in), output (N, ..., d_out), a (N or 1, r, d_in), b (N or 1, d_out, r) -> (N, ..., d_out).
    read, written: the entries (r,) that A or B only name; picking them replaces the product. Without gradients the output is
    changed in its place: it is fresh from the linear module, and a copy of it costs more than the products.
    """
    adapters = a.shape[0]
    flat_x = x.reshape(adapters, -1, x.shape[-1])
    flat_output = output.reshape(adapters, -1, output.shape[-1])
    low = torch.bmm(flat_x, a.transpose(1, 2)) if read is None else flat_x.index_select(-1, read.to(x.device))  # (N, T, r)
    in_place = not torch.is_grad_enabled()
    if written is not None:
        add = flat_output.index_add_ if in_place else flat_output.index_add
        return add(-1, written.to(output.device), low, alpha=scaling).view(output.shape)
    multiply = flat_output.baddbmm_ if in_place else flat_output.baddbmm
    return multiply(low, b.transpose(1, 2), alpha=scaling).view(output.shape)


def merge_into(model: nn.Module, weights: LoraWeights) -> None:
    """Add alpha / r * B A to every targeted weight, for good.

    Computed in float32 (float64 for a float64 model) and rounded once to the weight's dtype.
    Raises `IncompatibleBaseError` when the adapter does not fit, before any weight changes, and
    `RuntimeError` inside an `inject` or `merged` block of this model.
    """
    with reserve(model):
        _add_product(_merge_targets(model, weights), weights)


@contextlib.contextmanager
def merged(model: nn.Module, weights: LoraWeights) -> Iterator[None]:
    """While the block runs, the model is the merged one; afterwards every weight is bit-identical to before.

    Raises as `merge_into` does. Keeps a copy of the targeted weights meanwhile.
    """
    with reserve(model):
        linears = _merge_targets(model, weights)
        originals = {key: linear.weight.detach().clone() for key, linear in linears.items()}
        try:
            _add_product(linears, weights)
            yield
        finally:
            with torch.no_grad():
                for key, linear in linears.items():
                    linear.weight.copy_(originals[key])


def _merge_targets(model: nn.Module, weights: LoraWeights) -> dict[str, nn.Linear]:
    """The linear modules that the adapter changes, all checked first."""
    linears = {
        key: target_linear(model, key, d_in=pair.a.shape[1], d_out=pair.b.shape[0]) for key, pair in weights.modules.items()
    }
    for key, linear in linears.items():
        if not linear.weight.is_floating_point():
            raise IncompatibleBaseError(
                f"{key!r} is quantized ({linear.weight.dtype}); an adapter cannot be merged into it. Load "
                "the base model unquantized, or use `inject`."
            )
    return linears


@torch.no_grad()
def _add_product(linears: dict[str, nn.Linear], weights: LoraWeights) -> None:
    for key, pair in weights.modules.items():
        weight = linears[key].weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        a, b = (factor.to(device=weight.device, dtype=exact) for factor in (pair.a, pair.b))
        weight.copy_(weight.to(exact) + weights.scaling * (b @ a))
