"""Records conversations of OpenSSL with itself over TLS 1.2 into openssl.txt: what rustls does not
speak (AES-CBC with both orders of the MAC, static RSA, finite-field Diffie-Hellman).

Run in an empty folder with OpenSSL 3: `python3 openssl.py`.
"""
import os
import ssl
import subprocess

if not os.path.exists('cert.pem'):
    subprocess.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=shop.test".split(),check=True,capture_output=True)
NO_ETM=0x80000
out=[]
names="AES128-SHA AES256-SHA AES128-SHA256 AES256-SHA256 ECDHE-RSA-AES128-SHA256 ECDHE-RSA-AES256-SHA384 DHE-RSA-AES256-SHA AES128-GCM-SHA256 DHE-RSA-CHACHA20-POLY1305".split()
for name in names:
  for etm in ((True,False) if 'GCM' not in name and 'CHACHA' not in name else (True,)):
    if os.path.exists('keys'): os.remove('keys')
    def ctx(p):
        c=ssl.SSLContext(p); c.minimum_version=c.maximum_version=ssl.TLSVersion.TLSv1_2
        c.set_ciphers(name+":@SECLEVEL=0")
        c.options|=ssl.OP_NO_TICKET
        if not etm: c.options|=NO_ETM
        return c
    c=ctx(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname=False; c.verify_mode=ssl.CERT_NONE; c.keylog_filename='keys'
    s=ctx(ssl.PROTOCOL_TLS_SERVER); s.load_cert_chain('cert.pem','key.pem')
    if 'DHE-RSA-AES256-SHA'==name or 'DHE-RSA-CHACHA20' in name:
        if not os.path.exists('dh.pem'):
            subprocess.run("openssl dhparam -dsaparam -out dh.pem 1024".split(),check=True,capture_output=True)
        s.load_dh_params('dh.pem')
    ci,co,si,so=[ssl.MemoryBIO() for _ in range(4)]
    C=c.wrap_bio(ci,co,server_hostname='shop.test'); S=s.wrap_bio(si,so,server_side=True)
    fl=[]
    def pump():
        a=co.read()
        if a: fl.append(('>',a)); si.write(a)
        b=so.read()
        if b: fl.append(('<',b)); ci.write(b)
        return a or b
    done=[False,False]
    while not all(done):
        for i,x in enumerate((C,S)):
            try: x.do_handshake(); done[i]=True
            except ssl.SSLWantReadError: pass
            pump()
    pump()
    C.write(b'GET /seats '); pump(); S.read(100)
    C.write(b'x'*100); pump(); S.read(200)
    S.write(b'200 OK '*20); pump(); C.read(200)
    for x in (C,S):
        try: x.unwrap()
        except ssl.SSLWantReadError: pass
        pump()
    out.append(f"case {C.cipher()[0]} {'encrypt-then-mac' if etm else 'mac-then-encrypt'}")
    out.append("keys "+[l.strip() for l in open('keys') if l.startswith('CLIENT_RANDOM')][0])
    out += [d+' '+b.hex() for d,b in fl]
open('openssl.txt','w').write("# Conversations of OpenSSL with itself over TLS 1.2; made with `openssl.py`.\n"+"\n".join(out)+"\n")
print(len(out), os.path.getsize('openssl.txt'), ssl.OPENSSL_VERSION)
