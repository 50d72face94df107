"""Writes each byte that passes a network interface into a file, in order: what somebody who listens there has."""
import socket
import sys

ETH_P_ALL, SO_RCVBUFFORCE = 3, 33
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
# A packet that finds no room would be one that nobody saw.
tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
tap.bind((sys.argv[1], 0))
with open(sys.argv[2], "ab", buffering=0) as heard:
    print("ready", flush=True)
    while True:
        heard.write(tap.recv(1 << 18))
