# GET /healthz   (health)
package drive.GET.healthz

allowed := true
