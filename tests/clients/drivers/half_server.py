"""Model providers whose streams rest in the middle of an event, for as long as anybody listens. Each that rests is told to the journal. They
take no key but the one that the proxy adds."""
import http.server
import json
import os
import ssl
import time

KEY = "Bearer real-key-of-models-4d17"
MESSAGE = {"id": "msg_half", "type": "message", "role": "assistant", "model": "half", "content": [], "stop_reason": None,
           "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
RESPONSE = {"id": "resp_half", "object": "response", "created_at": 1, "status": "in_progress", "model": "half", "output": [],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
CHUNK = {"id": "chatcmpl-half", "object": "chat.completion.chunk", "created": 1, "model": "half",
         "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}]}
# Whole events by the path that asks for them, with their names where the provider gives them one.
STREAMS = {
    "/anthropic/v1/messages": [
        ("message_start", {"type": "message_start", "message": MESSAGE}),
        ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}),
    ],
    "/openai/v1/responses": [("response.created", {"type": "response.created", "sequence_number": 0, "response": RESPONSE})],
    "/openai/v1/chat/completions": [(None, CHUNK)],
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        events = STREAMS.get(self.path)
        if events is None or self.headers.get("authorization") != KEY:
            return self.send_error(404 if events is None else 401)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for name, data in events:
            self.tell(("event: %s\n" % name if name else "") + "data: %s\n\n" % json.dumps(data))
        # The next one is like the last, as far as it comes.
        name, data = events[-1]
        self.tell(("event: %s\n" % name if name else "") + "data: " + json.dumps(data)[:20])
        self.journal()
        # It ends when the other side does.
        self.connection.recv(1)
        self.close_connection = True

    def tell(self, text):
        self.wfile.write(text.encode())
        self.wfile.flush()

    def journal(self):
        entry = {
            "time_ns": time.time_ns(), "peer": "127.0.0.1", "local": None, "scheme": "https", "sni": None,
            "host": "models.world.test", "method": "POST", "path": self.path, "version": "HTTP/1.1",
            "headers": [[name.lower(), value] for name, value in self.headers.items()], "body_bytes": None,
        }
        with open(os.environ["SEEN"], "a") as seen:
            seen.write(json.dumps(entry) + "\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("93.184.215.200", 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["CERTIFICATE"], os.environ["KEY"])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
