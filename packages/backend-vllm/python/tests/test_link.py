import socket
import tempfile
import threading
import unittest

from armature_vllm.frames import encode
from armature_vllm.link import Link

from .fake_armature import FakeArmature, until


class Links(unittest.TestCase):
    def setUp(self) -> None:
        self.armature = FakeArmature()
        self.pushed: list[str] = []
        self.downs = 0
        self.link = Link(self.armature.path, {"role": "worker"}, lambda head, tail: self.pushed.append(head["op"]), self._down)

    def tearDown(self) -> None:
        self.link.close()
        self.armature.close()

    def _down(self) -> None:
        self.downs += 1

    def test_connects_and_gets_answers(self) -> None:
        self.assertIsNone(self.link.call({"op": "release", "lease": 1}, b"", 1))  # not started
        self.link.start()
        until("the pool", lambda: self.pushed == ["pool"])
        self.assertTrue(self.link.is_up)
        answer = self.link.call({"op": "release", "lease": 1}, b"", 5)
        assert answer is not None
        self.assertTrue(answer[0]["valid"])
        self.assertEqual(self.armature.heads("hello")[0]["version"], 1)

    def test_no_answer_in_time_is_none(self) -> None:
        self.link.start()
        until("up", lambda: self.link.is_up)
        self.assertIsNone(self.link.call({"op": "silence"}, b"", 0.05))

    def test_when_the_socket_closes_every_question_ends_and_it_connects_again(self) -> None:
        self.link.start()
        until("up", lambda: len(self.pushed) == 1)
        answers: list[object] = []
        for _ in range(5):
            self.link.ask({"op": "silence"}, b"", lambda head, tail: answers.append(head))
        self.armature.drop()
        until("the answers", lambda: answers == [None] * 5)
        until("down", lambda: self.downs == 1)
        until("up again", lambda: len(self.pushed) == 2 and self.link.is_up)
        self.assertIsNotNone(self.link.call({"op": "release", "lease": 1}, b"", 5))

    def test_refused_is_not_up(self) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            path = f"{folder}/s"
            listener.bind(path)
            listener.listen()

            def refuse() -> None:
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(encode({"op": "refused", "code": "VLLM_CONNECTOR_MISMATCH", "message": "blockSize is 4 here, 16 in vLLM"}))

            thread = threading.Thread(target=refuse)
            thread.start()
            link = Link(path, {"role": "worker"}, lambda head, tail: None, self._down)
            with self.assertLogs("vllm.armature", "ERROR") as logs:
                link.start()
                thread.join()
                until("the log", lambda: len(logs.output) > 0)
            self.assertFalse(link.is_up)
            self.assertIn("blockSize is 4 here, 16 in vLLM", logs.output[0])
            link.close()
