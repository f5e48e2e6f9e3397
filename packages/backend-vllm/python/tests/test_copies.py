import random
import unittest

import torch

from armature_vllm.copies import Copier, DeviceBlocks, layer_key
from armature_vllm.pool import Pool

BLOCKS = 12


def cpu_cache(layers: int = 3) -> dict[str, torch.Tensor]:
    """As vLLM on a CPU: a block is one run in each layer."""
    return {f"model.layers.{i}.attn": torch.randn(BLOCKS, 2, 8, 16) for i in range(layers)}


def gpu_cache(layers: int = 3) -> dict[str, torch.Tensor]:
    """Keys and values apart, heads before tokens in memory: what a view of another order looks like."""
    return {f"model.layers.{i}.attn": torch.randn(2, BLOCKS, 2, 8, 16, dtype=torch.bfloat16).transpose(2, 3) for i in range(layers)}


class Copies(unittest.TestCase):
    def test_what_went_down_comes_back_bit_for_bit(self) -> None:
        for make in (cpu_cache, gpu_cache):
            for seed in range(10):
                random_ = random.Random(seed)
                caches = make()
                before = {name: tensor.clone() for name, tensor in caches.items()}
                blocks = DeviceBlocks(caches, BLOCKS)
                pool = Pool(torch.zeros(20, 8192 + blocks.pieces * blocks.piece_bytes, dtype=torch.uint8), "now")
                copier = Copier(blocks)
                count = random_.randrange(1, BLOCKS)
                source = random_.sample(range(BLOCKS), count)
                target = random_.sample(range(BLOCKS), count)
                host = random_.sample(range(20), count)
                copier.to_host(source, pool, host).wait()
                copier.to_device(pool, host, target).wait()
                for name, tensor in caches.items():
                    dim = 1 if tensor.shape[0] == 2 else 0
                    for block in range(BLOCKS):
                        wanted = source[target.index(block)] if block in target else block
                        self.assertTrue(torch.equal(tensor.select(dim, block), before[name].select(dim, wanted)), f"seed {seed} {name} block {block}")

    def test_content_is_layer_after_layer(self) -> None:
        caches = cpu_cache(11)
        blocks = DeviceBlocks(caches, BLOCKS)
        self.assertEqual((blocks.pieces, blocks.layers, blocks.piece_bytes, blocks.dtype), (11, 11, 2 * 8 * 16 * 4, "float32"))
        pool = Pool(torch.zeros(2, blocks.pieces * blocks.piece_bytes, dtype=torch.uint8), "now")
        Copier(blocks).to_host([7], pool, [1])
        for layer in range(11):
            run = pool.bytes[1, layer * blocks.piece_bytes : (layer + 1) * blocks.piece_bytes]
            self.assertTrue(torch.equal(run.view(torch.float32).view(2, 8, 16), caches[f"model.layers.{layer}.attn"][7]))
        self.assertEqual(sorted(["a.10.x", "a.9.x", "a.2.x"], key=layer_key), ["a.2.x", "a.9.x", "a.10.x"])

    def test_another_order_in_memory_is_another_layout(self) -> None:
        plain = {"l.0": torch.randn(2, BLOCKS, 8, 2, 16)}
        turned = {"l.0": torch.randn(2, BLOCKS, 2, 8, 16).transpose(2, 3)}
        self.assertEqual(plain["l.0"].shape, turned["l.0"].shape)
        self.assertNotEqual(DeviceBlocks(plain, BLOCKS).layout, DeviceBlocks(turned, BLOCKS).layout)

    def test_what_cannot_be_copied_as_blocks_is_refused(self) -> None:
        for caches in ({}, {"l.0": torch.zeros(5, 4)}, {"l.0": torch.zeros(BLOCKS, 4, 8)[:, :, ::2]}, {"l.0": torch.zeros(BLOCKS, 4), "l.1": torch.zeros(BLOCKS, 8)}):
            with self.assertRaises(ValueError):
                DeviceBlocks(caches, BLOCKS)
