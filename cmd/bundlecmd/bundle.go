// Package bundlecmd is the commands of gatehouse bundle: they build, test, sign and compare bundles, and exchange them as images.
package bundlecmd

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/cmd/grammar"
	"gatehouse/cmd/running"
	"gatehouse/images"
	"gatehouse/terminal"
)

// Command is gatehouse bundle.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Build, test, sign and compare policy bundles, and exchange them as images",
		Long: `A bundle is a directory of Rego and data, or a tarball of one. An image is a bundle in a registry, or in the local store.
A BUNDLE argument is any of:

  ./policy                                a directory
  bundle.tar.gz                           a tarball
  registry.example.com/policies/app:1.4   an image, by tag or by @sha256:...

An argument that exists as a file is a file; a leading ./ always means a file.`,
	}
	c.AddCommand(running.BundleCommands()...)
	return grammar.Family(c, bundleBuildCommand(), bundleTestCommand(), bundleSignCommand(), bundleVerifyCommand(), bundleDiffCommand(), bundleInspectCommand(),
		bundleTagCommand(), bundlePushCommand(), bundlePullCommand(), bundleSaveCommand(), bundleImagesCommand(), bundleRemoveCommand(),
		bundleLoginCommand(), bundleLogoutCommand())
}

// ImageFlags say where images are: the local store and how registries are reached.
type ImageFlags struct{ bundler.Images }

// AddStore adds --store.
func (f *ImageFlags) AddStore(c *cobra.Command) {
	c.Flags().StringVar(&f.Store, "store", "", "directory of the local images (default $GATEHOUSE_IMAGES, else $XDG_DATA_HOME/gatehouse/images)")
}

// AddRegistry adds --ca and --plain-http.
func (f *ImageFlags) AddRegistry(c *cobra.Command) {
	c.Flags().StringVar(&f.CA, "ca", "", "PEM file with the registry's certificate authorities, instead of the system's")
	c.Flags().BoolVar(&f.PlainHTTP, "plain-http", false, "connect to the registry without TLS; credentials are sent unencrypted")
}

// built is what the commands that make or move an image print.
type built struct {
	Reference string `json:"reference,omitempty"`
	File      string `json:"file,omitempty"`
	Digest    string `json:"digest"`
	Layer     string `json:"layer"`
	Size      int    `json:"size"` // bytes of the tarball
	Revision  string `json:"revision,omitempty"`
}

func describe(i *images.Image) built {
	return built{Digest: i.Digest(), Layer: i.Layer(), Size: len(i.Tarball())}
}

// print writes one line: what it is called, and the digest. That of a file is the file's own.
func (b built) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return terminal.JSON(w).Encode(b)
	}
	line := b.Reference + " " + b.Digest
	if b.File != "" {
		line = b.File + " " + b.Layer
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
