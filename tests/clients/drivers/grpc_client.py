"""Calls of grpc-python. With `one`, a single call; with `all`, each kind of call, a line for each."""
import os
import sys
from urllib.parse import urlsplit

import grpc

url = urlsplit(os.environ["BASE"])
with open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb") as file:
    roots = file.read()
channel = grpc.secure_channel(f"{url.hostname}:443", grpc.ssl_channel_credentials(roots))


def call(kind, method, service=url.path):
    return getattr(channel, kind)(f"{service}/{method}")


if sys.argv[1] == "one":
    try:
        print(call("unary_unary", "Unary")(b"hello", timeout=30).decode())
    except grpc.RpcError as error:
        print(error.code(), error.details())
        sys.exit(1)
    sys.exit(0)


def unary():
    answer, context = call("unary_unary", "Unary").with_call(b"hello", timeout=30)
    assert answer == b"hello", answer
    assert ("said-last", "yes") in [tuple(pair) for pair in context.trailing_metadata()], context.trailing_metadata()


def large():
    sent = os.urandom(3 << 20)
    assert call("unary_unary", "Unary")(sent, timeout=60) == sent


def compressed():
    sent = b"x" * 100_000
    assert call("unary_unary", "Unary")(sent, timeout=30, compression=grpc.Compression.Gzip) == sent


def client_stream():
    parts = [b"%d," % number for number in range(200)]
    assert call("stream_unary", "ClientStream")(iter(parts), timeout=30) == b"".join(parts)


def server_stream():
    answers = list(call("unary_stream", "ServerStream")(b"200", timeout=30))
    assert answers == [b"%d" % number for number in range(200)], len(answers)


def both_turn_by_turn():
    # The next message is sent only when the last was answered, so a buffer on the way would stop it.
    import queue
    to_send = queue.Queue()
    answers = call("stream_stream", "Both")(iter(to_send.get, None), timeout=30)
    for number in range(50):
        to_send.put(b"%d" % number)
        assert next(answers) == b"%d" % number
    to_send.put(None)
    assert list(answers) == []


def deadline():
    try:
        call("unary_unary", "Slow")(b"", timeout=1)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        return
    raise AssertionError("no deadline")


def status_and_trailers_of_a_failure():
    try:
        call("unary_unary", "Fail")(b"", timeout=30)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not today: größe", error.details()
        assert ("said-last", "no") in [tuple(pair) for pair in error.trailing_metadata()]
        return
    raise AssertionError("no failure")


def a_method_outside_the_rule():
    try:
        call("unary_unary", "Unary", "/world.Denied")(b"", timeout=30)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
        return
    raise AssertionError("not denied")


def cancelled_and_the_channel_goes_on():
    answers = call("unary_stream", "ServerStream")(b"100000", timeout=30)
    next(answers)
    answers.cancel()
    unary()


def many_at_once():
    calls = [call("unary_unary", "Unary").future(b"%d" % number, timeout=60) for number in range(100)]
    assert [pending.result() for pending in calls] == [b"%d" % number for number in range(100)]


CASES = [unary, large, compressed, client_stream, server_stream, both_turn_by_turn, deadline,
         status_and_trailers_of_a_failure, a_method_outside_the_rule, cancelled_and_the_channel_goes_on, many_at_once]
for case in CASES:
    try:
        case()
        print("PASS", case.__name__)
    except Exception as error:
        print("FAIL", f"{case.__name__}: {type(error).__name__} {error}".replace("\n", " ")[:300])
