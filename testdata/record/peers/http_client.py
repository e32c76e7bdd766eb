"""Python's own http.client on one connection, and a chunked upload. Usage: http_client.py PORT"""

import http.client
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for method, target, body in (
    ("GET", "/length?a=1&b=%20", None),
    ("POST", "/items", b'{"name": "chair"}'),
    ("PUT", "/items/1", iter([b"piece one, ", b"piece two"])),
    ("DELETE", "/items/1", None),
):
    headers = {"Content-Type": "application/json"} if body else {}
    connection.request(method, target, body, headers, encode_chunked=True)
    answer = connection.getresponse()
    print(method, target, answer.status, len(answer.read()))
connection.close()
