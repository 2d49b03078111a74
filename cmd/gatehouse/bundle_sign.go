package main

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bundles/signature"
	"gatehouse/bundles/tarball"
	"gatehouse/images"
	"gatehouse/policy/bundle"
)

// keyFlags name a key.
type keyFlags struct {
	key        signature.Key
	allowHS256 bool
}

func (f *keyFlags) add(c *cobra.Command, what string) {
	flags := c.Flags()
	flags.StringVar(&f.key.File, "key", "", "file with the "+what)
	flags.StringVar(&f.key.ID, "key-id", "default", "id of the key, by which the verifier finds it")
	flags.StringVar(&f.key.Algorithm, "algorithm", "ES256", "RS256, PS256, ES256, EdDSA, their 384 and 512 bit variants, or HS256 if allowed")
	flags.StringVar(&f.key.Scope, "scope", "", "scope of the signature, which the verifier must expect")
	flags.BoolVar(&f.allowHS256, "allow-hs256", false, "accept HS256, although a key that verifies can also sign")
}

// verification is what the flags ask of a signature.
func (f *keyFlags) verification() (*signature.Verification, error) {
	if f.key.File == "" {
		return nil, usageError{errors.New("give the key's file with --key")}
	}
	if f.key.Algorithm == "HS256" && !f.allowHS256 {
		return nil, usageError{errors.New("HS256 is refused, because a key that verifies can also sign: --allow-hs256 accepts that")}
	}
	return &signature.Verification{Keys: []signature.Key{f.key}, AllowHS256: f.allowHS256}, nil
}

func bundleSignCommand() *cobra.Command {
	var k keyFlags
	var f imageFlags
	var output, tag string
	var asJSON bool
	c := &cobra.Command{
		Use:   "sign BUNDLE",
		Short: "Sign a tarball or an image of the local store",
		Long: `Adds .signatures.json, in OPA's format, to a tarball or an image, and replaces an older signature. The signed bundle replaces
the unsigned one, unless -o or -t is given. With the PS and ES algorithms, signature and digest differ each time.`,
		Example: `  gatehouse bundle sign bundle.tar.gz --key private.pem --key-id ci
  gatehouse bundle sign registry.example.com/policies/app:1.4 --key private.pem --key-id ci --algorithm EdDSA`,
		Args: arguments("gatehouse bundle sign bundle.tar.gz --key private.pem --key-id ci", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := k.verification(); err != nil {
				return err
			}
			o, err := f.openBundle(c.Context(), args[0], local)
			if err != nil {
				return err
			}
			signed, err := o.sign(k.key)
			if err != nil {
				return err
			}
			if output == "" && tag == "" {
				output, tag = o.path, o.ref
			}
			if output != "" {
				if err := saveTarball(c, signed, output, asJSON); err != nil || tag == "" {
					return err
				}
			}
			return f.keep(c, &opened{image: signed}, tag, asJSON)
		},
	}
	k.add(c, "private key, PEM")
	f.addStore(c)
	c.Flags().StringVarP(&output, "output", "o", "", "file for the signed tarball; - is standard output")
	c.Flags().StringVarP(&tag, "tag", "t", "", "name for the signed image in the local store")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// sign makes an image of the same files, annotations and a signature.
func (o *opened) sign(key signature.Key) (*images.Image, error) {
	i, err := o.imageOf()
	if err != nil {
		return nil, err
	}
	files := maps.Clone(o.files)
	if files[signatureFile], err = signature.Sign(o.files, key); err != nil {
		return nil, err
	}
	tarball, err := images.Pack(files)
	if err != nil {
		return nil, err
	}
	return images.New(tarball, i.Annotations())
}

func bundleVerifyCommand() *cobra.Command {
	var k keyFlags
	var f imageFlags
	c := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "Verify a bundle's signature",
		Long: `Checks the signature like an activation: it was made with the key, names exactly the files of the bundle, and each
file has the signed content.`,
		Example: `  gatehouse bundle verify bundle.tar.gz --key public.pem --key-id ci`,
		Args:    arguments("gatehouse bundle verify bundle.tar.gz --key public.pem --key-id ci", 1),
		RunE: func(c *cobra.Command, args []string) error {
			v, err := k.verification()
			if err != nil {
				return err
			}
			o, err := f.openBundle(c.Context(), args[0], pulled)
			if err != nil {
				return err
			}
			if o.image == nil {
				return errors.New("a signature is in a tarball or an image: a directory has none")
			}
			if err := v.Verify(o.name, o.files, time.Now()); err != nil {
				return err
			}
			b, err := bundle.Read(o.name, tarball.Tree(o.files), bundle.Limits{})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is signed with key %s, revision %s, tarball %s\n", args[0], k.key.ID, b.Revision(), o.image.Layer())
			return err
		},
	}
	k.add(c, "public key or certificate, PEM")
	f.addStore(c)
	f.addRegistry(c)
	return c
}
