# SPDX-License-Identifier: Apache-2.0
# Publishes retained messages with QoS 2 over TLS, each on a topic of its own, and
# prints how many of them the broker has taken. usage: retain.py HOST PORT CA MESSAGES
import hashlib, os, sys
import paho.mqtt.client as mqtt

host, port, ca, messages = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
client = mqtt.Client()
client.tls_set(ca)
client.max_queued_messages_set(0)
client.on_disconnect = lambda _client, _data, reason: reason and os._exit(1)  # do not try again
client.connect(host, port)
client.loop_start()
sent = [client.publish(f"retained/{i}", f"{i} {hashlib.md5(str(i).encode()).hexdigest()}", qos=2, retain=True)
        for i in range(messages)]
for s in sent:
    s.wait_for_publish(120)
client.disconnect()
client.loop_stop()
print(sum(s.is_published() for s in sent))
