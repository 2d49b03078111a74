package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	pemfile "encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gatehouse/images/exchange"
)

// TestBundleScripts runs the command lines in testdata/bundle. Key pairs lie there, as p256.pem and p256.pub, and there are two
// commands more:
//
//	registry [tls] [user password]   starts a registry of its own; its address is $REGISTRY
//	opa                              makes $OPA the path of an opa binary
func TestBundleScripts(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "localhost")
	keys := signingKeys(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/bundle",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": collectErrors(t).exits,
			"registry": func(ts *testscript.TestScript, _ bool, args []string) {
				var o exchange.Options
				if len(args) > 0 && args[0] == "tls" {
					o.Cert, o.Key, args = ts.MkAbs("registry.crt"), ts.MkAbs("registry.key"), args[1:]
				}
				if len(args) == 2 {
					o.User, o.Password = args[0], args[1]
				}
				r, err := exchange.StartRegistry(context.Background(), o)
				ts.Check(err)
				ts.Defer(func() { _ = r.Close() })
				// The certificate is for the name.
				ts.Setenv("REGISTRY", strings.Replace(r.Address, "127.0.0.1", "localhost", 1))
			},
			"opa": func(ts *testscript.TestScript, _ bool, _ []string) {
				path, err := exchange.OPA(context.Background())
				ts.Check(err)
				ts.Setenv("OPA", path)
			},
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("NO_COLOR", "1")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GATEHOUSE_IMAGES", filepath.Join(env.WorkDir, "images"))
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			files := map[string]string{"ca.crt": ca.pem(), "registry.crt": cert, "registry.key": key}
			maps.Copy(files, keys)
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// signingKeys are key pairs in PEM by the names of their files.
func signingKeys(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, prefix := range []string{"", "other-"} {
		_, ed, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for name, private := range map[string]crypto.Signer{"ed25519": ed, "p256": newKey(t)} {
			secret, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			public, err := x509.MarshalPKIXPublicKey(private.Public())
			if err != nil {
				t.Fatal(err)
			}
			files[prefix+name+".pem"] = string(pemfile.EncodeToMemory(&pemfile.Block{Type: "PRIVATE KEY", Bytes: secret}))
			files[prefix+name+".pub"] = string(pemfile.EncodeToMemory(&pemfile.Block{Type: "PUBLIC KEY", Bytes: public}))
		}
	}
	return files
}
