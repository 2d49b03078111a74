package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/config"
	"gatehouse/identity/apikey"
)

// TestValidateAuthZEN: keys are not readable on the network, and settings that nobody can ask for are a mistake.
func TestValidateAuthZEN(t *testing.T) {
	key, err := apikey.New(apikey.Entry{Subject: "app"})
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(keys, key.YAML(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		c    config.ListenDirectory
		want string // "" for none
	}{
		{config.ListenDirectory{HTTP: []string{"127.0.0.1:1", "unix:/run/x.sock", "localhost:2", "[::1]:3"}}, ""},
		{config.ListenDirectory{HTTP: []string{"127.0.0.1:1"}, AuthZEN: config.AuthZEN{Decision: "authzen/allow", URL: "https://pdp.example.com"}}, ""},
		{config.ListenDirectory{}, "listen.directory.grpc: give at least one address, or listen.directory.http"},
		{config.ListenDirectory{HTTP: []string{"127.0.0.1:1", "0.0.0.0:2"}}, "listen.directory.http[1]: \"0.0.0.0:2\": keys would be readable on the network"},
		{config.ListenDirectory{HTTP: []string{"here"}}, "listen.directory.http[0]: \"here\" is not host:port"},
		{config.ListenDirectory{HTTP: []string{"127.0.0.1:1"}, AuthZEN: config.AuthZEN{Decision: "a//b"}}, "listen.directory.authzen: decision: \"a//b\" is not a path"},
		{config.ListenDirectory{HTTP: []string{"127.0.0.1:1"}, AuthZEN: config.AuthZEN{URL: "http://x"}}, "listen.directory.authzen: url: \"http://x\" is not a URL"},
		{config.ListenDirectory{GRPC: []string{"127.0.0.1:1"}, AuthZEN: config.AuthZEN{Decision: "a/b"}}, "listen.directory.authzen: nobody can ask"},
	} {
		test.c.Keys = keys
		err := validateDirectoryListen(&test.c)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: %v, want %s", test.c, err, test.want)
		}
	}
}
