import unittest
from types import SimpleNamespace
from typing import Any

from armature_vllm.frames import encode
from armature_vllm.scheduler import SchedulerSide, StepPlan

from .fake_armature import LENDER, FakeArmature, hash_of, until

BLOCK = 4


def request(name: str, tokens: int, **more: Any) -> Any:
    fields = {"request_id": name, "all_token_ids": list(range(tokens)), "num_computed_tokens": 0, "num_preemptions": 0, "cache_salt": None, "lora_request": None, "mm_features": [], "prompt_embeds": None, "kv_transfer_params": None}
    made = SimpleNamespace(**{**fields, **more})
    made.num_tokens = len(made.all_token_ids)
    return made


def step(scheduled: dict[str, int], new: list[Any] = [], cached: list[tuple[str, list[int], int]] = [], preempted: set[str] | None = None) -> Any:  # noqa: B006
    """`new`: (id, blocks, computed); `cached` likewise."""
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        preempted_req_ids=preempted,
        scheduled_new_reqs=[SimpleNamespace(req_id=req_id, block_ids=(blocks,), num_computed_tokens=computed) for req_id, blocks, computed in new],
        scheduled_cached_reqs=SimpleNamespace(req_ids=[c[0] for c in cached], new_block_ids=[(c[1],) if c[1] else None for c in cached], num_computed_tokens=[c[2] for c in cached], resumed_req_ids=set()),
    )


class Scheduling(unittest.TestCase):
    def setUp(self) -> None:
        self.armature = FakeArmature(BLOCK)
        self.side = SchedulerSide(self.armature.path, BLOCK, 5_000)
        until("the pool", lambda: self.side._lender is not None)

    def tearDown(self) -> None:
        self.side.close()
        self.armature.close()

    def ask(self, req: Any, computed: int = 0) -> tuple[int | None, bool]:
        """As vLLM does: again until there is an answer."""
        found: list[tuple[int | None, bool]] = []

        def is_known() -> bool:
            found.append(self.side.matched(req, computed))
            return found[-1][0] is not None

        until("an answer", is_known)
        return found[-1]

    def run_step(self, req: Any, scheduled: int, blocks: list[int], computed: int = 0) -> StepPlan:
        self.side.allocated(req, blocks, 0)
        return self.side.plan(step({req.request_id: scheduled}, new=[(req.request_id, blocks, computed)]))

    def test_none_until_the_answer_is_there_then_a_load(self) -> None:
        self.armature.held = 3
        req = request("a", 14)
        self.side.plan(step({"other": 1}))  # others run: no waiting
        self.assertEqual(self.side.matched(req, 0), (None, False))
        self.assertEqual(self.ask(req), (12, True))
        self.assertEqual(self.ask(req), (12, True))  # vLLM had no blocks free: it asks again, we do not
        self.assertEqual(len(self.armature.heads("match")), 1)
        self.side.allocated(req, [5, 6, 7, 8], 12)
        load = self.side.plan(step({})).loads["a"]
        self.assertEqual((load.epoch, load.lease, load.device, load.host), ("now", 77, [5, 6, 7], [10, 11, 12]))
        self.side.received({"a"})
        plan = self.run_step(req, 2, [5, 6, 7, 8], 12)
        self.assertEqual(plan.loads, {})

    def test_with_nothing_to_run_a_quick_answer_is_waited_for_and_a_slow_one_is_not(self) -> None:
        self.armature.held = 3
        found = [self.side.matched(request(f"a{i}", 14), 0) for i in range(20)]
        self.assertIn((12, True), found)
        self.armature.answers["match"] = lambda head, tail: None
        self.assertEqual(self.side.matched(request("b", 14), 0), (None, False))

    def test_only_what_vllm_lacks_is_loaded(self) -> None:
        self.armature.held = 4
        req = request("a", 18)
        self.assertEqual(self.ask(req, 8), (8, True))  # two blocks of vLLM's own
        self.assertEqual(self.ask(req, 12), (4, True))  # by now three
        self.side.allocated(req, [1, 2, 3, 4, 5], 4)
        load = self.side.plan(step({})).loads["a"]
        self.assertEqual((load.device, load.host), ([4], [13]))

    def test_vllm_lost_blocks_meanwhile_it_is_looked_up_again(self) -> None:
        self.armature.held = 4
        req = request("a", 18)
        self.assertEqual(self.ask(req, 8), (8, True))
        self.assertEqual(self.ask(req, 4), (12, True))
        until("the first lease is given back", lambda: len(self.armature.heads("release")) == 1)

    def test_nothing_held_nothing_loaded_and_vllm_holding_all_is_not_kept_waiting(self) -> None:
        self.assertEqual(self.ask(request("a", 14)), (0, False))
        self.assertEqual(self.side.matched(request("b", 14), 12), (0, False))
        self.assertEqual(self.armature.heads("pull"), [])

    def test_no_answer_by_the_deadline_computes(self) -> None:
        self.side.close()
        self.side = SchedulerSide(self.armature.path, BLOCK, 50)
        until("the pool", lambda: self.side._lender is not None)
        self.armature.held = 3
        self.armature.answers["pull"] = lambda head, tail: None
        self.assertEqual(self.ask(request("a", 14)), (0, False))
        until("the pull is called off", lambda: len(self.armature.heads("cancel")) == 1)

    def test_images_and_embeddings_are_not_looked_up(self) -> None:
        self.assertEqual(self.side.matched(request("a", 14, mm_features=["cat"]), 0), (0, False))
        self.assertEqual(self.side.matched(request("b", 14, prompt_embeds=object()), 0), (0, False))
        self.assertEqual(self.armature.heads("match"), [])

    def test_tenant_and_adapter_go_along(self) -> None:
        self.ask(request("a", 9, cache_salt="them", lora_request=SimpleNamespace(lora_name="poet")))
        head = self.armature.heads("match")[0]
        self.assertEqual((head["salt"], head["lora"]), ("them", "poet"))

    def test_complete_blocks_are_saved_once_as_they_fill(self) -> None:
        req = request("a", 10)
        self.ask(req)
        first = self.run_step(req, 6, [1, 2, 3])  # a chunk
        self.assertEqual([(save.device, save.rows) for save in first.saves["a"]], [([1], hash_of(1, 0) + bytes(8))])
        second = self.side.plan(step({"a": 4}, cached=[("a", [], 6)]))
        self.assertEqual([(save.device, save.rows) for save in second.saves["a"]], [([2], hash_of(1, 1) + hash_of(1, 0))])
        saves: list[Any] = []
        for computed in range(10, 20):  # decode
            req.all_token_ids.append(computed)
            req.num_tokens += 1
            saves += self.side.plan(step({"a": 1}, cached=[("a", [4] if computed == 12 else [], computed)])).saves.get("a", [])
            until("the hash", lambda: not self.side._tracked["a"].is_asking)
        self.assertEqual([(save.device, save.rows) for save in saves], [([3], hash_of(1, 2) + hash_of(1, 1)), ([4], hash_of(1, 3) + hash_of(1, 2))])
        self.assertEqual(self.armature.tokens[1], req.all_token_ids[: len(self.armature.tokens[1])])

    def test_finished_keeps_its_blocks_until_the_worker_is_done(self) -> None:
        req = request("a", 9)
        self.ask(req)
        self.run_step(req, 9, [1, 2, 3])
        req.num_computed_tokens = 9
        self.assertEqual(self.side.finished(req, [1, 2, 3]), (True, None))
        plan = self.side.plan(step({}))
        self.assertEqual((plan.closing, plan.saves), ({"a"}, {}))
        until("it is forgotten", lambda: self.armature.heads("forget") == [{"op": "forget", "prompt": 1}])

    def test_the_last_block_is_saved_though_its_hash_comes_after_the_end(self) -> None:
        held: list[Any] = []
        append = self.armature.answers["append"]

        def late(head: Any, tail: bytes) -> None:
            held.append((head, tail))

        for is_answered in (True, False):
            self.armature.answers["append"] = late
            req = request("a", 7)
            self.ask(req)
            self.run_step(req, 7, [1, 2])
            req.all_token_ids.append(99)
            req.num_tokens = 8
            self.side.plan(step({"a": 1}, cached=[("a", [], 7)]))
            until("the question", lambda: len(held) == 1)
            req.num_computed_tokens = 8
            self.assertEqual(self.side.finished(req, [1, 2]), (True, None))
            self.assertEqual(self.side.plan(step({})).closing, set())
            if is_answered:
                head, tail = held.pop()
                found, hashes = append(head, tail)
                self.armature.connections[0].sendall(encode({**found, "id": head["id"]}, hashes))
            else:
                self.armature.drop()
            until("the answer", lambda: not self.side._finishing["a"].tracked.is_asking)
            plan = self.side.plan(step({}))
            self.assertEqual((plan.closing, [save.device for save in plan.saves.get("a", [])]), ({"a"}, [[2]] if is_answered else []))
            self.assertEqual(self.side._finishing, {})

    def test_prefill_leg_hands_over_where_its_blocks_are(self) -> None:
        req = request("a", 9, kv_transfer_params={"do_remote_decode": True})
        self.ask(req)
        self.run_step(req, 9, [1, 2, 3])
        req.num_computed_tokens = 9
        _, params = self.side.finished(req, [1, 2, 3])
        self.assertEqual(params, {"do_remote_prefill": True, "do_remote_decode": False, "armature": {**LENDER, "blocks": 2}})

    def test_decode_leg_passes_them_on(self) -> None:
        source = {**LENDER, "blocks": 2}
        self.armature.held = 2
        self.assertEqual(self.ask(request("a", 9, kv_transfer_params={"do_remote_prefill": True, "armature": source})), (8, True))
        self.assertEqual((self.armature.heads("match")[0]["source"], self.armature.heads("pull")[0]["source"]), (source, source))

    def test_a_load_that_failed_is_not_tried_again(self) -> None:
        self.armature.held = 3
        req = request("a", 14)
        self.assertEqual(self.ask(req), (12, True))
        self.side.allocated(req, [1, 2, 3, 4], 12)
        self.side.plan(step({}))
        self.side.received({"a"})
        self.assertEqual(self.side.matched(req, 0), (0, False))
        plan = self.run_step(req, 14, [1, 2, 3, 4])
        self.assertEqual(plan.saves["a"][0].device, [1, 2, 3])

    def test_preempted_begins_anew_with_its_output(self) -> None:
        self.ask(request("a", 9))
        req = request("a", 9)
        self.run_step(req, 9, [1, 2, 3])
        self.assertEqual(self.side.plan(step({}, preempted={"a"})).preempted, {"a"})
        req.num_preemptions = 1
        req.all_token_ids += [7] * 5
        req.num_tokens = 14
        self.armature.held = 3
        self.assertEqual(self.ask(req), (12, True))

    def test_aborted_before_it_ran_gives_its_lease_back(self) -> None:
        self.armature.held = 3
        req = request("a", 14)
        self.ask(req)
        self.assertEqual(self.side.finished(req, []), (False, None))
        until("the lease is given back", lambda: self.armature.heads("release") == [{"op": "release", "epoch": "now", "lease": 77}])

    def test_aborted_while_loading_saves_nothing_of_what_may_be_there(self) -> None:
        self.armature.held = 3
        req = request("a", 14)
        self.ask(req)
        self.side.allocated(req, [1, 2, 3, 4], 12)
        req.num_computed_tokens = 12
        self.assertEqual(self.side.finished(req, [1, 2, 3, 4]), (False, None))
        self.assertEqual(self.side.plan(step({})).saves, {})

    def test_without_the_worker_vllm_computes_and_goes_on_when_it_is_back(self) -> None:
        self.armature.held = 3
        running = request("a", 14)
        self.assertEqual(self.ask(running), (12, True))
        self.armature.drop()
        until("it is noticed", lambda: self.side._lender is None)
        self.assertEqual(self.side.matched(running, 0), (0, False))
        self.assertEqual(self.side.matched(request("b", 14), 0), (0, False))
        until("it is back", lambda: self.side._lender is not None)
        self.assertEqual(self.ask(request("c", 14)), (12, True))
