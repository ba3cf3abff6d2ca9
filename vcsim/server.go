package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"time"
)

// server holds the two listeners: the vSphere API over TLS and the control endpoint.
type server struct {
	api        *http.Server
	control    *http.Server
	url        string
	controlURL string
}

func listen(lab *Lab, o options) (*server, error) {
	certificate, err := serverCertificate(o.stateDir)
	if err != nil {
		return nil, err
	}
	apiListener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, err
	}
	controlListener, err := listenLoopback(o.control)
	if err != nil {
		return nil, err
	}
	s := &server{
		url:        "https://" + apiListener.Addr().String() + "/sdk",
		controlURL: "http://" + controlListener.Addr().String(),
		api: &http.Server{
			Handler:           lab.apiHandler(endpoint(apiListener)),
			TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
			ReadHeaderTimeout: 30 * time.Second,
			ErrorLog:          log.New(unlessHandshake{}, "", 0),
		},
		control: &http.Server{Handler: lab.controlHandler(), ReadHeaderTimeout: 30 * time.Second},
	}
	go func() { _ = s.api.ServeTLS(apiListener, "", "") }()
	go func() { _ = s.control.Serve(controlListener) }()
	return s, nil
}

// listenLoopback listens on a loopback address only, because the control endpoint has no password.
func listenLoopback(address string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if !resolved.IP.IsLoopback() {
		return nil, fmt.Errorf("the control endpoint must be on a loopback address, not %s", address)
	}
	return net.ListenTCP("tcp", resolved)
}

// unlessHandshake logs all errors except those of clients that refuse the certificate, or only
// check whether the port is open.
type unlessHandshake struct{}

func (unlessHandshake) Write(line []byte) (int, error) {
	if !bytes.Contains(line, []byte("TLS handshake error")) {
		log.Printf("%s", bytes.TrimSpace(line))
	}
	return len(line), nil
}

func endpoint(l net.Listener) *url.URL {
	return &url.URL{Scheme: "https", Host: l.Addr().String(), Path: "/sdk"}
}

// close closes both listeners, without waiting for long WaitForUpdatesEx calls.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if s.api.Shutdown(ctx) != nil {
		_ = s.api.Close()
	}
	if s.control.Shutdown(ctx) != nil {
		_ = s.control.Close()
	}
}
