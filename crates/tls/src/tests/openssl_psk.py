"""Appends to openssl.txt what `openssl s_client` and `s_server` say to each other over TLS 1.2 where
they share a key beforehand, which Python's `ssl` does not offer.

Run behind openssl.py, in the same folder, with OpenSSL 3: `python3 openssl_psk.py`.
"""
import os
import socket
import subprocess
import tempfile
import threading
import time


def free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


out=[]
for name in ("PSK-CHACHA20-POLY1305","PSK-AES128-GCM-SHA256","ECDHE-PSK-CHACHA20-POLY1305","DHE-PSK-AES256-GCM-SHA384","RSA-PSK-AES128-GCM-SHA256"):
    d=tempfile.mkdtemp(); keys=d+'/keys'
    port,front=free(),free()
    cert=[] if not name.startswith("RSA") else ["-cert","cert.pem","-key","key.pem"]
    if cert and not os.path.exists('cert.pem'):
        subprocess.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=shop.test".split(),check=True,capture_output=True)
    server=subprocess.Popen(["openssl","s_server","-accept",str(port),"-psk","00112233445566778899aabbccddeeff","-cipher",name+":@SECLEVEL=0","-tls1_2","-quiet","-naccept","1",*(cert or ["-nocert"])],stdin=subprocess.PIPE,stdout=subprocess.PIPE)
    time.sleep(.5)
    listener=socket.create_server(('127.0.0.1',front))
    client=subprocess.Popen(["openssl","s_client","-connect",f"127.0.0.1:{front}","-psk","00112233445566778899aabbccddeeff","-cipher",name+":@SECLEVEL=0","-tls1_2","-quiet","-no_ticket","-keylogfile",keys],stdin=subprocess.PIPE,stdout=subprocess.PIPE,stderr=subprocess.DEVNULL)
    a,_=listener.accept(); b=socket.create_connection(('127.0.0.1',port))
    flights=[]; lock=threading.Lock()
    def pump(x,y,mark):
        while data:=x.recv(65536):
            with lock: flights.append(f"{mark} {data.hex()}"); y.sendall(data)
        try: y.shutdown(socket.SHUT_WR)
        except OSError: pass
    ts=[threading.Thread(target=pump,args=w) for w in ((a,b,'>'),(b,a,'<'))]
    [t.start() for t in ts]
    time.sleep(.5)
    client.stdin.write(b'GET /seats '); client.stdin.flush(); time.sleep(.2)
    client.stdin.write(b'x'*100); client.stdin.flush(); time.sleep(.2)
    server.stdin.write(b'200 OK '*20); server.stdin.flush(); time.sleep(.2)
    server.stdin.close(); time.sleep(.2)
    client.stdin.close(); client.wait(timeout=5); server.wait(timeout=5)
    [t.join(5) for t in ts]
    out.append(f"case {name} encrypt-then-mac")
    out.append("keys "+[l.strip() for l in open(keys) if l.startswith("CLIENT_RANDOM")][0])
    out+=flights
    print(name,len(flights))
open('openssl.txt','a').write("\n".join(out)+"\n")
