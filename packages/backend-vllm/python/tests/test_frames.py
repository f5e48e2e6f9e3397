import random
import struct
import unittest

from armature_vllm.frames import MAX_FRAME_BYTES, FrameError, FrameReader, encode, ints, to_ints


class Frames(unittest.TestCase):
    def test_any_cut_of_the_stream_gives_the_same_frames(self) -> None:
        for seed in range(50):
            random_ = random.Random(seed)
            frames = [({"op": "x", "n": i, "s": "ü" * random_.randrange(9)}, ints(random_.randrange(-5, 5) for _ in range(random_.randrange(6)))) for i in range(20)]
            stream = b"".join(encode(*frame) for frame in frames)
            reader, got = FrameReader(), []
            while stream:
                cut = random_.randrange(1, 40)
                got += reader.push(stream[:cut])
                stream = stream[cut:]
            self.assertEqual(got, frames, f"seed {seed}")

    def test_columns(self) -> None:
        self.assertEqual(to_ints(ints([1, -2, 2**31 - 1])), [1, -2, 2**31 - 1])

    def test_what_is_no_frame_is_refused(self) -> None:
        for data in (struct.pack("<II", MAX_FRAME_BYTES + 1, 4), struct.pack("<II", 3, 4), struct.pack("<III", 8, 90, 0), struct.pack("<II", 6, 2) + b"[]", struct.pack("<II", 5, 1) + b"{", encode({}, b"abc")):
            with self.assertRaises(FrameError):
                list(FrameReader().push(data))
