"""Tensors that say they are on cuda:0 and compute on the CPU: no GPU, no CUDA build of torch.

`Pretended` refuses an operation on tensors of both devices, with its file and line, and notes every call for
which a CPU would wait for a GPU. The casts of CUDA's autocast are done here, because PyTorch's own look at
the real device.
"""

import traceback
from collections import Counter
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
# A GPU has to tell the CPU a number or a size before it can go on.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "is_nonzero", "equal"}
WAITS |= {"_unique2", "unique_dim", "bincount"}
LOWER = (F.linear, F.conv1d, F.conv2d, F.scaled_dot_product_attention)
LOWER += (torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__)
FLOAT32 = (F.layer_norm, F.softplus, F.cross_entropy, torch.exp, torch.cumsum, torch.sum, torch.softmax)
FLOAT32 += (torch.Tensor.exp, torch.Tensor.cumsum, torch.Tensor.sum, torch.Tensor.softmax, F.softmax)


class OnGPU(torch.Tensor):
    """Wraps a CPU tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device, is_cuda = property(lambda self: CUDA), property(lambda self: True)

    @staticmethod
    def __new__(cls, inner):
        facts = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **facts)
        made.inner = inner
        return made

    def __repr__(self):
        return f"OnGPU({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def place():
    """The line of the library that is running, else the last line outside torch and the tests' own tools."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__]
    of_the_kit = [f for f in frames if "/emrrg_lib/" in f.filename]
    others = [f for f in frames if "/torch/" not in f.filename and "/_pytest/" not in f.filename]
    frame = (of_the_kit or others)[-1]
    return (
        f"{frame.filename.split('site-packages/')[-1].split('/emrrg_lib/')[-1]}:{frame.lineno} {frame.line}"
    )


def cpu(value):
    return value.inner if isinstance(value, OnGPU) else value


def gpu(value):
    return OnGPU(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGPU) else value


NOTED = Counter()  # waits: "operation at file:line code"


def wait(what):
    NOTED[f"{what} at {place()}"] += 1


def compute(function, args, kwargs):
    name = function._schema.name.removeprefix("aten::")
    leaves = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    wrapped = {id(t.inner): t for t in leaves if isinstance(t, OnGPU)}
    if any(not isinstance(t, OnGPU) and t.dim() for t in leaves) and name not in ("copy_", "set_data"):
        where = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in leaves)
        raise RuntimeError(f"tensors of two devices: {name}({where}) at {place()}")
    masked = name in ("index", "index_put", "index_put_") and any(
        t is not None and t.dtype == torch.bool for t in args[1]
    )
    if name in WAITS or masked or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        wait(name)
    if name == "copy_" and isinstance(args[0], OnGPU) != isinstance(args[1], OnGPU):
        wait("copy_ between devices")
    if name == "_fused_sdp_choice":
        return 0  # the plain formula
    out = function(*tree_map(cpu, args), **tree_map(cpu, kwargs))
    return tree_map(lambda t: wrapped.get(id(t), gpu(t)), out)


class Factories(TorchDispatchMode):
    """What C++ makes while it computes with tensors of the GPU is on the GPU."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(issubclass(kind, OnGPU) for kind in types):
            return compute(function, args, kwargs or {})
        out = function(*args, **(kwargs or {}))
        tensors = any(isinstance(t, torch.Tensor) for t in tree_flatten((args, kwargs))[0])
        return tree_map(gpu, out) if self.mode.inside and not tensors else out


class Pretended(TorchFunctionMode):
    """Within it `device="cuda"`, `.to("cuda")` and `.cpu()` work."""

    inside = False  # a call with a tensor on the GPU is running

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name in ("to", "cpu", "cuda", "numpy", "tolist", "pin_memory"):
            return self.move(function, name, args, kwargs)
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = "cpu" if (there := torch.device(asked).type == "cuda") else asked
        leaves = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        pretended, before = any(isinstance(t, OnGPU) for t in leaves), self.inside
        if pretended and torch.is_autocast_enabled("cuda"):
            args, kwargs = tree_map(lambda t: cast(function, t), (args, kwargs))
        self.inside = pretended
        try:
            out = function(*args, **kwargs)
        finally:
            self.inside = before
        if name == "new_tensor" or (asked is not None and there):
            return tree_map(gpu, out)
        return out

    def move(self, function, name, args, kwargs):
        tensor, *rest = args
        if name in ("numpy", "tolist"):
            if isinstance(tensor, OnGPU):
                wait(name)
            return function(cpu(tensor), *rest, **kwargs)
        if name == "pin_memory":
            return tensor
        asked = {"cpu": "cpu", "cuda": "cuda"}.get(name, kwargs.pop("device", None))
        for value in rest:
            asked = value.device if isinstance(value, torch.Tensor) else asked
            asked = value if isinstance(value, str | torch.device) else asked
        rest = [t.dtype if isinstance(t, torch.Tensor) else t for t in rest]
        rest = [t for t in rest if not isinstance(t, str | torch.device)]
        quick = kwargs.pop("non_blocking", False)
        there = torch.device(asked).type == "cuda" if asked is not None else isinstance(tensor, OnGPU)
        if there != isinstance(tensor, OnGPU) and not (quick and there):
            wait("to the GPU" if there else "to the CPU")
        if there == isinstance(tensor, OnGPU):
            return torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
        moved = cpu(tensor.detach() if tensor.requires_grad else tensor)
        moved = moved.to(*rest, **kwargs) if rest or kwargs else moved.clone()
        return OnGPU(moved) if there else moved


def cast(function, value):
    """As CUDA's autocast; see torch.amp's documentation for its lists."""
    if not isinstance(value, OnGPU) or not value.is_floating_point() or value.dtype == torch.float64:
        return value
    dtype = torch.get_autocast_dtype("cuda") if function in LOWER else value.dtype
    return torch.Tensor.to(value, torch.float32 if function in FLOAT32 else dtype)


def to_gpu(model):
    """As `model.to("cuda")`: parameters and registered buffers, each once."""
    moved = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    made = OnGPU(tensor.detach().clone())
                    kept = isinstance(tensor, torch.nn.Parameter)
                    moved[id(tensor)] = torch.nn.Parameter(made, tensor.requires_grad) if kept else made
                tensors[name] = None if tensor is None else moved[id(tensor)]
    return model


@contextmanager
def a_gpu(monkeypatch):
    """The modes, and a torch.cuda that says it has one GPU; yields the waits that are noted."""
    from emrrg_lib.vision import scan

    facts = {"total_memory": 80 * 2**30, "name": "pretended"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda *args: type("Properties", (), facts))
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(scan, "_automatic", lambda device: "reference")
    NOTED.clear()
    group = torch._C._group_tensors_by_device_and_dtype  # of optimisers, in C++: it sees the real device

    def grouped(lists, indices=False):
        found = group(lists, indices)
        return {(CUDA if isinstance(lists[0][0], OnGPU) else d, kind): v for (d, kind), v in found.items()}

    monkeypatch.setattr("torch._C._group_tensors_by_device_and_dtype", grouped)
    mode, run = Pretended(), torch.autograd._engine_run_backward

    def backward(*args, **kwargs):
        with mode:  # a mode is off while it handles a call, but a backward pass runs Python
            return run(*args, **kwargs)

    monkeypatch.setattr("torch.autograd._engine_run_backward", backward)
    with mode, Factories(mode):
        yield NOTED
