"""A gRPC service that says what it received; it accepts only the key that the proxy adds."""
import json
import os
import time
from concurrent import futures

import grpc

KEY = "Bearer real-key-of-indexes-3e90"


def called(details):
    fields = [[name, value if isinstance(value, str) else value.hex()] for name, value in details.invocation_metadata]
    entry = {
        "time_ns": time.time_ns(), "peer": "127.0.0.1", "local": None, "scheme": "https", "sni": None,
        "host": "grpc.world.test", "method": "POST", "path": details.method, "version": "HTTP/2.0",
        "headers": fields, "body_bytes": None,
    }
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(json.dumps(entry) + "\n")
    return dict(details.invocation_metadata).get("authorization") == KEY


def unary(request, context):
    context.set_trailing_metadata((("said-last", "yes"),))
    return request


def client_stream(requests, context):
    return b"".join(requests)


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def both(requests, context):
    for request in requests:
        yield request


def slow(request, context):
    # Until the caller's deadline, which ends the call.
    while context.is_active():
        time.sleep(0.05)
    return b""


def fail(request, context):
    context.set_trailing_metadata((("said-last", "no"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: größe")


def refuse(request, context):
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key did not arrive")


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if not called(details):
            return grpc.unary_unary_rpc_method_handler(refuse)
        return METHODS.get(details.method.rsplit("/", 1)[1])


def read(variable):
    with open(os.environ[variable], "rb") as file:
        return file.read()


server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Handler()])
server.add_secure_port("93.184.215.50:443", grpc.ssl_server_credentials([(read("KEY"), read("CERTIFICATE"))]))
server.start()
print("ready", flush=True)
server.wait_for_termination()
