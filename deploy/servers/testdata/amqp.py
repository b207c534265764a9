# SPDX-License-Identifier: Apache-2.0
# Publishes messages over TLS, each confirmed, and consumes them; prints how many
# bytes were compared. usage: amqp.py HOST PORT CA MESSAGES
import hashlib, pika, ssl, sys

host, port, ca, messages = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def body(i):
    return hashlib.sha256(str(i).encode()).digest() * (1 + i % 300)  # 32 to 9600 bytes


def connect():
    return pika.BlockingConnection(pika.ConnectionParameters(
        host, port, ssl_options=pika.SSLOptions(ssl.create_default_context(cafile=ca), host)))


publisher, consumer = connect(), connect()
out = publisher.channel()
out.confirm_delivery()
out.queue_declare("sluice", auto_delete=True)
into = consumer.channel()
into.basic_qos(prefetch_count=100)
for i in range(messages):
    out.basic_publish("", "sluice", body(i), mandatory=True)
checked = 0
for i, (method, _, got) in enumerate(into.consume("sluice", inactivity_timeout=60)):
    if method is None or got != body(i):
        sys.exit(f"message {i} is missing or wrong")
    into.basic_ack(method.delivery_tag)
    checked += len(got)
    if i == messages - 1:
        break
into.cancel()
consumer.close()
publisher.close()
print(checked)
