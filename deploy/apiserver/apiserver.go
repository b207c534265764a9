// SPDX-License-Identifier: Apache-2.0

// Package apiserver runs a real Kubernetes API server for tests: etcd and
// kube-apiserver on this machine, with RBAC and the Gateway API's CRDs. It
// needs neither root nor a network, but the binary of deploy/cluster/kubernetes/build.sh.
//
// There is no controller manager. So nobody makes EndpointSlices of Services,
// collects the children of deleted objects, or ends a Namespace: a test takes
// namespaces of its own and leaves them behind.
//
// One server usually serves all tests of a package:
//
//	func TestMain(m *testing.M) {
//		server, err = apiserver.Start(ctx, apiserver.Options{})
//		…
//		code := m.Run()
//		server.Close()
//		os.Exit(code)
//	}
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Options say how a Server starts. The zero value is a server with all CRDs.
type Options struct {
	// Without are the CRDs that are not installed, by name, like
	// "tlsroutes.gateway.networking.k8s.io". Install can bring them later.
	Without []string
}

// Server is a running API server. Its methods may not be called at the same
// time; the configurations that it hands out may be used from anywhere.
type Server struct {
	sources sources
	dir     string // keys, logs and etcd's data, removed by Close
	port    *port
	ca      *authority
	admin   *rest.Config

	etcd, api *process
}

// startTimeout bounds the start of both processes, which takes some seconds
// on an idle machine.
const startTimeout = 3 * time.Minute

// Start starts an API server and installs the CRDs. The caller closes it; if
// the caller dies instead, the server's processes die with it.
func Start(ctx context.Context, opts Options) (_ *Server, err error) {
	s := &Server{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start API server: %w", err), s.Close())
		}
	}()
	if s.sources, err = findSources(ctx); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "sluice-apiserver-"); err != nil {
		return nil, err
	}
	if s.port, err = reservePort(); err != nil {
		return nil, err
	}
	if s.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	if err := s.writeKeys(); err != nil {
		return nil, err
	}
	if s.admin, err = s.User("admin", "system:masters"); err != nil {
		return nil, err
	}
	s.etcd, err = startProcess(s.sources.binary, s.dir, "etcd",
		"--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL, "--listen-peer-urls=unix://peer:0")
	if err != nil {
		return nil, err
	}
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	return s, s.installAllBut(ctx, opts.Without)
}

// etcdURL is a unix socket in the server's folder, where both processes run.
const etcdURL = "unix://client:0"

// Restart starts the API server after Stop, on the same port and with the same
// objects, and waits until it is ready.
func (s *Server) Restart(ctx context.Context) (err error) {
	if s.api != nil {
		return errors.New("restart API server: it runs, stop it first")
	}
	s.api, err = startProcess(s.sources.binary, s.dir, "kube-apiserver",
		"--etcd-servers="+etcdURL,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", s.port.number), "--permit-port-sharing",
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=Node,RBAC", "--client-ca-file=ca.crt",
		"--tls-cert-file=server.crt", "--tls-private-key-file=server.key",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=accounts.key", "--service-account-signing-key-file=accounts.key")
	if err != nil {
		return err
	}
	return s.waitReady(ctx)
}

// Stop kills the API server: connections are reset, new ones refused. Its
// objects are kept, and its port stays reserved. See Restart.
func (s *Server) Stop() error {
	err := s.api.kill()
	s.api = nil
	return err
}

// Pause freezes the API server: connections stay open and nobody answers.
func (s *Server) Pause() error {
	if err := s.api.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return s.api.awaitStop()
}

// Resume lets a paused API server go on.
func (s *Server) Resume() error { return s.api.signal(syscall.SIGCONT) }

// Close ends the server and removes its folder.
func (s *Server) Close() error {
	err := errors.Join(s.api.kill(), s.etcd.kill())
	s.api, s.etcd = nil, nil
	if s.port != nil {
		err = errors.Join(err, s.port.release())
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// Config is an administrator's, without client-side rate limit.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.admin) }

// Binary is the path of all of Kubernetes in one binary, which is kubectl, too,
// with that as its first argument.
func (s *Server) Binary() string { return s.sources.binary }

// User is the configuration of a user who proves name and groups by a client
// certificate.
func (s *Server) User(name string, groups ...string) (*rest.Config, error) {
	chain, key, err := s.ca.clientCertificate(name, groups)
	if err != nil {
		return nil, fmt.Errorf("certificate of user %s: %w", name, err)
	}
	config := s.config()
	config.CertData, config.KeyData = chain, key
	return config, nil
}

// ServiceAccount is the configuration of a pod of a ServiceAccount, which must
// exist: with a token that is valid for an hour.
func (s *Server) ServiceAccount(ctx context.Context, namespace, name string) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(s.admin)
	if err != nil {
		return nil, err
	}
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("token of ServiceAccount %s/%s: %w", namespace, name, err)
	}
	config := s.config()
	config.BearerToken = token.Status.Token
	return config, nil
}

// Pod is the configuration of a pod that runs on a node: both are made, on
// paper only, and its token names them.
func (s *Server) Pod(ctx context.Context, namespace, account, node string) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(s.admin)
	if err != nil {
		return nil, err
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if _, err := client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make Node %s: %w", node, err)
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: account + "-"},
		Spec: corev1.PodSpec{ServiceAccountName: account, NodeName: node, Containers: []corev1.Container{{Name: "none", Image: "none"}}}}
	if p, err = client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("make a pod of ServiceAccount %s/%s: %w", namespace, account, err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}}}
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("token of pod %s/%s: %w", namespace, p.Name, err)
	}
	config := s.config()
	config.BearerToken = token.Status.Token
	return config, nil
}

func (s *Server) config() *rest.Config {
	return &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", s.port.number),
		TLSClientConfig: rest.TLSClientConfig{CAData: s.ca.certificate},
		QPS:             -1,
	}
}

// waitReady waits until the API server and its default namespace are there.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	transport, err := rest.TransportFor(s.admin)
	if err != nil {
		return err
	}
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default"} {
		for {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.admin.Host+path, nil)
			if err != nil {
				return err
			}
			response, err := transport.RoundTrip(request)
			if err == nil {
				if err := response.Body.Close(); err != nil {
					return err
				}
				if response.StatusCode == http.StatusOK {
					break
				}
				err = errors.New(response.Status)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("API server not ready: %s: %s\n%s", path, err, s.api.logTail())
			case <-s.api.done:
				return fmt.Errorf("kube-apiserver ended: %s\n%s", s.api.err, s.api.logTail())
			case <-s.etcd.done:
				return fmt.Errorf("etcd ended: %s\n%s", s.etcd.err, s.etcd.logTail())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// writeKeys writes what kube-apiserver reads from files.
func (s *Server) writeKeys() error {
	chain, key, err := s.ca.serverCertificate("127.0.0.1")
	if err != nil {
		return err
	}
	accounts, err := newKeyPEM()
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		"ca.crt": s.ca.certificate, "server.crt": chain, "server.key": key, "accounts.key": accounts,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
