package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/images"
	"gatehouse/scaffold"
	"gatehouse/terminal"
)

func bundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Build, test, sign and compare policy bundles, and exchange them as images",
		Long: `A bundle is a directory of Rego and data, or a tarball of one. An image is a bundle in a registry, or in the local store.
A BUNDLE argument is any of:

  ./policy                                a directory
  bundle.tar.gz                           a tarball
  registry.example.com/policies/app:1.4   an image, by tag or by @sha256:...

An argument that exists as a file is a file; a leading ./ always means a file.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for gatehouse bundle\ngatehouse bundle --help lists them", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(bundleBuildCommand(), bundleTestCommand(), bundleSignCommand(), bundleVerifyCommand(), bundleDiffCommand(), bundleInspectCommand(),
		bundleTagCommand(), bundlePushCommand(), bundlePullCommand(), bundleSaveCommand(), bundleImagesCommand(), bundleRemoveCommand(),
		bundleLoginCommand(), bundleLogoutCommand())
	c.AddCommand(bundleControlCommands()...)
	return c
}

// imageFlags say where images are: the local store and how registries are reached.
type imageFlags struct{ bundler.Images }

func (f *imageFlags) addStore(c *cobra.Command) {
	c.Flags().StringVar(&f.Store, "store", "", "directory of the local images (default $GATEHOUSE_IMAGES, else $XDG_DATA_HOME/gatehouse/images)")
}

func (f *imageFlags) addRegistry(c *cobra.Command) {
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

// writeWhole writes a file that is there as a whole or not at all; - is standard output. A link stays, and so does a device
// or a pipe.
func writeWhole(c *cobra.Command, file string, content []byte) error {
	if file == "-" {
		_, err := c.OutOrStdout().Write(content)
		return err
	}
	if info, err := os.Stat(file); err == nil {
		if !info.Mode().IsRegular() {
			return os.WriteFile(file, content, 0o644) // it exists, so this creates nothing
		}
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return err
		}
	}
	return scaffold.PlaceFile(file, content, 0o644)
}
