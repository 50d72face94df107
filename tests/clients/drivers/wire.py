"""Writes each byte that passes a network interface into a file, in order: what somebody who listens there has."""
import socket
import struct
import sys

ETH_P_ALL, SO_RCVBUFFORCE, SOL_PACKET, PACKET_STATISTICS = 3, 33, 263, 6
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
# A packet that finds no room would be one that nobody saw.
tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
tap.bind((sys.argv[1], 0))
with open(sys.argv[2], "ab", buffering=0) as heard:
    print("ready", flush=True)
    while True:
        packet = tap.recv(1 << 18)
        # How many came, and how many of them found no room, since this was last asked (packet(7)). One that is lost ends the listening, before
        # anything that came behind it is told.
        if struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]:
            sys.exit("packets were lost")
        heard.write(packet)
