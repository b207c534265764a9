// SPDX-License-Identifier: Apache-2.0

package publication

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// FuzzDecode holds that whatever a Secret holds, Decode returns a snapshot that
// can be published again as it is, or an error without a key in it.
func FuzzDecode(f *testing.F) {
	const marker = "MARKER-OF-THE-KEY"
	good, err := json.Marshal(&config.Snapshot{
		Listeners: []config.Listener{{Name: "shop/gw/redis", Port: 443, Protocol: config.TLS, Hostname: "redis.example.com",
			TLS: &config.ListenerTLS{Certificates: []string{"shop/redis"}}, L4: []config.HostRoute{{Hostname: "redis.example.com", Route: "TLSRoute/shop/redis"}}}},
		Routes:       []config.Route{{Name: "TLSRoute/shop/redis", Backends: []config.BackendRef{{Backend: "shop/redis:6379", Weight: 1}}}},
		Backends:     []config.Backend{{Name: "shop/redis:6379", Service: &config.Service{Namespace: "shop", Name: "redis", Number: 6379}}},
		Certificates: []config.Certificate{{Name: "shop/redis", Chain: []byte("chain")}},
	})
	if err != nil {
		f.Fatal(err)
	}
	key, err := json.Marshal(map[string][]byte{"shop/redis": []byte(marker)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, key, true)
	f.Add(good, []byte(`{"shop/redis":"`+marker+`"}`), true) // is not base64
	f.Add(good, []byte("["), true)
	f.Add(good[:len(good)/2], key, true)
	f.Add([]byte(`{"Listeners":null,"Unknown":1}`), key, true)
	f.Add([]byte(strings.ReplaceAll(string(good), "443", "-1")), key, true)
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}, key, false)
	f.Add([]byte(nil), []byte(nil), false)
	f.Fuzz(func(t *testing.T, snapshot, keys []byte, pack bool) {
		// As it would have been published, so that only what is wrong in itself is refused.
		var published config.Snapshot
		hash := ""
		if json.Unmarshal(snapshot, &published) == nil {
			var all map[string][]byte
			_ = json.Unmarshal(keys, &all)
			for i := range published.Certificates {
				published.Certificates[i].Key = config.Secret(all[published.Certificates[i].Name])
			}
			hash = published.Hash()
		}
		data := snapshot
		if pack {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, _ = w.Write(snapshot)
			_ = w.Close()
			data = b.Bytes()
		}
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "sluice-system", Name: "x", Labels: map[string]string{ComponentLabel: PartComponent},
				Annotations: map[string]string{gatewayAnnotation: "shop/gw", hashAnnotation: hash}},
			Data: map[string][]byte{snapshotKey: data, keysKey: keys}}
		part, err := Decode(s)
		if err != nil {
			if strings.Contains(err.Error(), marker) && !bytes.Contains(snapshot, []byte(marker)) {
				t.Errorf("a key is in %q", err)
			}
			return
		}
		again, err := Encode("sluice-system", "shop/gw", part)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(again)
		if err != nil || got.Hash() != part.Hash() {
			t.Errorf("published again it is another one: %v", err)
		}
	})
}
