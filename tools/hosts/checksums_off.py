"""Checksums of an interface are computed by the kernel, not left to the (virtual) card: frames that pass through user space must be whole. Usage: checksums_off.py INTERFACE"""

import array
import fcntl
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
SET_TX_CHECKSUM, SET_SCATTER_GATHER, SET_TSO, SET_GSO = 0x17, 0x19, 0x1F, 0x24

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for what in (SET_TSO, SET_GSO, SET_SCATTER_GATHER, SET_TX_CHECKSUM):
    value = array.array("B", struct.pack("II", what, 0))
    fcntl.ioctl(sock.fileno(), SIOCETHTOOL, struct.pack("16sP", sys.argv[1].encode(), value.buffer_info()[0]))
