"""Causal attention with grouped queries for the trainer.

Uses attention.cpp, compiled on first import into a folder of the user's temporary directory,
where the machine has AVX-512 and g++; otherwise PyTorch's scaled_dot_product_attention.
"""
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile

import torch
import torch.nn.functional as F

GROUP, SIZE = 4, 32                                      # query heads per key/value head and head size of attention.cpp


def build():
    """The compiled library, or None where it cannot be had."""
    try:
        with open("/proc/cpuinfo") as f:
            if "avx512f" not in f.read(): return None
    except OSError:
        return None
    if not shutil.which("g++"): return None
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attention.cpp")
    with open(source, "rb") as f:
        name = "attention-" + hashlib.sha256(f.read()).hexdigest()[:16] + ".so"
    folder = os.path.join(tempfile.gettempdir(), f"armature-model-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        subprocess.run(["g++", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC", source, "-o", path + ".tmp"], check=True)
        os.replace(path + ".tmp", path)
    return ctypes.CDLL(path)


LIBRARY = build()


def address(*tensors):
    return [ctypes.c_void_p(x.data_ptr()) for x in tensors]


@torch.library.custom_op("armature::attention", mutates_args=())
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    o, lse = torch.empty_like(q), q.new_empty(q.shape[:3])
    LIBRARY.forward(*address(q, k, v, o, lse), k.shape[0] * k.shape[1], k.shape[2])
    return o, lse


@attention.register_fake
def _(q, k, v):
    return q.new_empty(q.shape), q.new_empty(q.shape[:3])


@torch.library.custom_op("armature::attention_backward", mutates_args=())
def attention_backward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o: torch.Tensor, lse: torch.Tensor,
                       grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v, grad = q.contiguous(), k.contiguous(), v.contiguous(), grad.contiguous()
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    LIBRARY.backward(*address(q, k, v, o, lse, grad, dq, dk, dv), k.shape[0] * k.shape[1], k.shape[2])
    return dq, dk, dv


@attention_backward.register_fake
def _(q, k, v, o, lse, grad):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output)


attention.register_autograd(lambda ctx, grad, _: attention_backward(*ctx.saved_tensors, grad), setup_context=keep)


def causal_attention(q, k, v):
    """q [batch, heads, length, size], k and v [batch, key/value heads, length, size], float32, to the shape of q."""
    if LIBRARY is not None and q.shape[-1] == SIZE and q.shape[1] == GROUP * k.shape[1]:
        return attention(q, k, v)[0]
    return F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), is_causal=True, enable_gqa=True)
