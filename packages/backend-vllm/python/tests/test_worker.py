import os
import unittest

import torch

from armature_vllm.frames import Head, encode, ints
from armature_vllm.pool import Pool, PoolError
from armature_vllm.scheduler import Load, Save, StepPlan
from armature_vllm.worker import WorkerSide

from .fake_armature import FakeArmature, bytes_of, hash_of, until

BLOCKS = 8
FACTS = {"model": "tiny", "blockSize": 4}


class Working(unittest.TestCase):
    def setUp(self) -> None:
        self.armature = FakeArmature()
        self.caches = {f"layers.{i}": torch.randn(BLOCKS, 2, 4, 6) for i in range(2)}
        self.worker = WorkerSide(self.armature.path, FACTS, BLOCKS)
        self.worker.register(self.caches)
        until("the pool", lambda: self.worker._pool is not None)

    def tearDown(self) -> None:
        self.worker.close()
        self.armature.close()

    def content(self, block: int) -> bytes:
        return b"".join(bytes_of(cache[block]) for cache in self.caches.values())

    def plan(self, device: list[int], name: str = "a", prompt: int = 1) -> StepPlan:
        rows = b"".join(hash_of(prompt, row) + bytes(8) for row in range(len(device)))
        return StepPlan(saves={name: [Save(rows, device, "")]}, closing={name})

    def save(self, plan: StepPlan) -> None:
        """Steps of the engine until the request's saves have ended."""
        self.worker.begin(plan)
        sent: set[str] = set()

        def is_over() -> bool:
            self.worker.save()
            sent.update(self.worker.finished()[0])
            return plan.closing <= sent

        until("the saves end", is_over)

    def test_hello_says_what_a_block_is(self) -> None:
        self.assertEqual(self.armature.heads("hello")[0]["format"], {"model": "tiny", "blockSize": 4, "dtype": "float32", "layers": 2, "pieces": 2, "pieceBytes": 192, "layout": "cpu:1x(2,4,6)/(24,6,1)"})

    def test_saved_bytes_are_in_the_pool_before_they_are_committed(self) -> None:
        seen: list[bytes] = []
        self.armature.answers["commit"] = lambda head, tail: seen.append(self.armature.block(1, 384))
        self.save(self.plan([3, 6]))
        until("the commit", lambda: len(seen) == 1)
        self.assertEqual((self.armature.block(0, 384), seen[0]), (self.content(3), self.content(6)))
        self.assertEqual(self.armature.heads("commit")[0]["rows"], 2)

    def test_only_rows_that_were_given_a_place_are_copied(self) -> None:
        self.armature.answers["reserve"] = lambda head, tail: ({"op": "reserved", "reservation": 9}, ints([1]) + ints([30]))
        self.save(self.plan([3, 6]))
        self.assertEqual(self.armature.block(30, 384), self.content(6))
        self.assertEqual(self.worker.counts.saved_blocks, 1)

    def test_no_place_and_no_connection_the_engine_goes_on(self) -> None:
        self.armature.free = []
        self.save(self.plan([1]))
        self.armature.drop()
        until("it is noticed", lambda: self.worker._pool is None)
        self.save(self.plan([1], "c"))
        self.assertEqual((self.worker.counts.saved_blocks, self.worker.counts.unsaved_blocks), (0, 2))

    def test_a_late_answer_does_not_stop_the_engine_and_is_used_in_a_later_step(self) -> None:
        asked: list[Head] = []
        self.armature.answers["reserve"] = lambda head, tail: asked.append(head)
        self.worker.begin(self.plan([3]))
        for _ in range(20):
            self.worker.save()
            self.assertEqual(self.worker.finished()[0], set())  # vLLM keeps the blocks
        until("the question", lambda: len(asked) == 1)
        self.armature.connections[0].sendall(encode({"op": "reserved", "reservation": 9, "id": asked[0]["id"]}, ints([0]) + ints([30])))
        self.save(StepPlan(closing={"a"}))
        self.assertEqual(self.armature.block(30, 384), self.content(3))

    def test_preempted_before_there_was_a_place_nothing_is_copied_and_the_place_goes_back(self) -> None:
        asked: list[Head] = []
        self.armature.answers["reserve"] = lambda head, tail: asked.append(head)
        self.worker.begin(self.plan([3]))
        self.worker.preempted(StepPlan(preempted={"a"}))
        until("the question", lambda: len(asked) == 1)
        self.armature.connections[0].sendall(encode({"op": "reserved", "reservation": 9, "id": asked[0]["id"]}, ints([0]) + ints([30])))
        until("it goes back", lambda: [head["rows"] for head in self.armature.heads("commit")] == [0])
        self.assertEqual(self.armature.block(30, 384), bytes(384))
        self.assertEqual(self.worker.finished()[0], {"a"})

    def load(self, name: str = "a", epoch: str = "now") -> set[int]:
        self.worker.load(StepPlan(loads={name: Load(epoch, 77, [2, 5], [0, 1])}))
        received: set[str] = set()

        def is_over() -> bool:
            received.update(self.worker.finished()[1])
            return name in received

        until("the load ends", is_over)
        return self.worker.failed_blocks()

    def test_loaded_bytes_are_those_of_the_pool(self) -> None:
        os.pwrite(self.armature.fd, bytes(range(192)) * 2, 0)
        other = self.content(4)
        self.assertEqual(self.load(), set())
        self.assertEqual((self.content(2), self.content(4)), (bytes(range(192)) * 2, other))
        self.assertEqual(self.worker.counts.loaded_blocks, 2)

    def test_a_lease_that_ended_fails_its_blocks(self) -> None:
        self.armature.is_valid = False
        self.assertEqual(self.load(), {2, 5})
        until("it is reported", lambda: self.armature.heads("failed") == [{"op": "failed", "blocks": 2, "reason": "the lease has expired"}])
        self.assertEqual(self.worker.failed_blocks(), set())  # once

    def test_a_socket_that_closes_fails_what_was_being_loaded(self) -> None:
        self.armature.answers["release"] = lambda head, tail: self.armature.drop()
        self.assertEqual(self.load(), {2, 5})
        until("it is back", lambda: self.worker._pool is not None)
        del self.armature.answers["release"]
        self.armature.answers["release"] = lambda head, tail: ({"op": "released", "valid": True}, b"")
        self.assertEqual(self.load("b"), set())

    def test_a_worker_that_hangs_is_dropped(self) -> None:
        self.armature.answers["release"] = lambda head, tail: None
        self.assertEqual(self.load(), {2, 5})
        until("the connection ends", lambda: len(self.armature.heads("hello")) == 2)

    def test_leases_and_places_of_another_life_are_not_used(self) -> None:
        self.assertEqual(self.load("a", "before"), {2, 5})
        self.assertEqual(self.armature.heads("release"), [])
        asked: list[Head] = []
        self.armature.answers["reserve"] = lambda head, tail: asked.append(head)
        self.worker.begin(self.plan([3], "b"))
        until("the question", lambda: len(asked) == 1)
        self.armature.epoch = "later"
        self.armature.push(self.armature.pool_head())
        until("the new pool", lambda: self.worker._pool is not None and self.worker._pool.epoch == "later")
        self.armature.connections[0].sendall(encode({"op": "reserved", "reservation": 9, "id": asked[0]["id"]}, ints([0]) + ints([30])))
        self.save(StepPlan(closing={"b"}))
        self.assertEqual((self.armature.block(30, 384), self.armature.heads("commit")), (bytes(384), []))

    def test_detached_loads_fail(self) -> None:
        self.armature.push({"op": "detached"})
        until("it is gone", lambda: self.worker._pool is None)
        self.assertEqual(self.load(), {2, 5})

    def test_memory_of_another_process_is_not_mapped(self) -> None:
        for wrong in ({"startTicks": 1}, {"fd": 9_999}, {"blocks": 1 << 20}):
            with self.assertRaises(PoolError):
                Pool.open({**self.armature.pool_head(), **wrong}, pin=False)
