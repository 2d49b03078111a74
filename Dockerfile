# Gatehouse as an image: one static binary, certificates of public authorities, no shell, not root.
#
#   docker build -t gatehouse .
#   docker run --read-only -v $PWD/gatehouse.yaml:/etc/gatehouse/gatehouse.yaml:ro -v gatehouse:/var/lib/gatehouse -p 9191:9191 gatehouse
#
# Releases are built without Docker, with the same content: make release-check.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=dev
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.release=$VERSION" -o /gatehouse ./cmd/gatehouse

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /gatehouse /usr/bin/gatehouse
EXPOSE 9191 9192
ENTRYPOINT ["/usr/bin/gatehouse"]
CMD ["serve", "--config", "/etc/gatehouse/gatehouse.yaml", "--wait-for-policy"]
