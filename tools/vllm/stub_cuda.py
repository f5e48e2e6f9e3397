"""Lets PyPI's torch, a CUDA build, start on a machine without CUDA and without the 2.5 GiB of nvidia-* wheels.

torch's libraries name libcudart, libcublas, libcudnn, ... as NEEDED, so the loader refuses to start without them, although nothing in them is called
on a CPU. This writes one tiny shared object per missing library into torch/lib (which is $ORIGIN, and so on every RPATH there). It defines exactly the
symbols that torch leaves undefined, under the symbol versions that torch asks for; each returns 100, cudaErrorNoDevice, and torch reports no device.

usage: stub_cuda.py SITE_PACKAGES SCRATCH_FOLDER     needs readelf and gcc
"""

import collections
import pathlib
import re
import subprocess
import sys

SYSTEM = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")
SYSTEM_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64")
FROM_SYSTEM = re.compile(r"^(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-x86-64|libgomp)\.so")
CUDA_NAME = re.compile(r"^(cu|nv|nccl|__cuda)")
NO_DEVICE = 100


class Library:
    """What one ELF file needs, defines and leaves undefined."""

    def __init__(self, path: pathlib.Path) -> None:
        text = subprocess.run(["readelf", "-W", "-d", "--dyn-syms", "-V", str(path)], capture_output=True, text=True, check=True).stdout
        self.needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", text))
        self.defined: set[str] = set()
        self.undefined: set[tuple[str, str]] = set()  # (symbol, version or '')
        self.version_of: dict[str, str] = {}  # symbol version -> the library that has it
        library = ""
        for line in text.splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found.group(1)
            elif library and (found := re.search(r"Name: (\S+)\s+Flags", line)):
                self.version_of[found.group(1)] = library
            else:
                self.__symbol(line.split())

    def __symbol(self, words: list[str]) -> None:
        if len(words) < 8 or not words[0].endswith(":") or not words[0][:-1].isdigit():
            return
        name, _, version = words[7].partition("@")
        if words[6] == "UND":
            self.undefined.add((name, version.lstrip("@")))
        else:
            self.defined.add(name)


def stub_symbols(libraries: list[Library], own: set[str]) -> dict[str, dict[str, set[str]]]:
    """For each missing library: symbol version -> symbols."""
    missing = {name for library in libraries for name in library.needed if name not in own and not FROM_SYSTEM.match(name)}
    known = {symbol for library in libraries for symbol in library.defined}
    for name in SYSTEM:
        path = next((folder / name for folder in map(pathlib.Path, SYSTEM_FOLDERS) if (folder / name).exists()), None)
        if path is not None:
            known |= Library(path).defined
    stubs: dict[str, dict[str, set[str]]] = {name: collections.defaultdict(set) for name in missing}
    for library in libraries:
        for symbol, version in library.undefined:
            owner = library.version_of.get(version, "")
            if symbol in known:
                continue
            if owner in missing:
                stubs[owner][version].add(symbol)
            elif version == "" and CUDA_NAME.match(symbol):
                # No version says whose it is. The loader looks in every library, so one home serves all.
                home = next((name for name in sorted(missing) if name.startswith("libcudart")), None)
                if home is not None:
                    stubs[home][""].add(symbol)
    return stubs


def compile_stub(name: str, versions: dict[str, set[str]], folder: pathlib.Path, scratch: pathlib.Path) -> None:
    lines = [".text"]
    for symbol in sorted(set().union(*versions.values())):
        lines += [f".globl {symbol}", f".type {symbol},@function", f"{symbol}:", f" mov ${NO_DEVICE},%eax", " ret", f".size {symbol},.-{symbol}"]
    lines.append('.section .note.GNU-stack,"",@progbits')
    source = scratch / f"{name}.s"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-shared", "-nostdlib", "-o", str(folder / name), str(source), f"-Wl,-soname,{name}"]
    named = {version: symbols for version, symbols in versions.items() if version}
    if named:
        script = scratch / f"{name}.map"
        script.write_text("".join(f"{version} {{ global: {' '.join(f'{s};' for s in sorted(symbols))} }};\n" for version, symbols in sorted(named.items())))
        command.append(f"-Wl,--version-script={script}")
    subprocess.run(command, check=True)


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) / "torch" / "lib"
    scratch = pathlib.Path(sys.argv[2])
    scratch.mkdir(parents=True, exist_ok=True)
    paths = sorted(folder.glob("*.so*"))
    stubs = stub_symbols([Library(path) for path in paths], {path.name for path in paths})
    for name, versions in sorted(stubs.items()):
        compile_stub(name, versions, folder, scratch)
    print(f"{len(stubs)} stub libraries, {sum(len(s) for v in stubs.values() for s in v.values())} symbols")


main()
