# GET /docs/oauth2-redirect   (swagger_ui_redirect)
package shop.GET.docs["oauth2-redirect"]

import data.roles

default allowed := false

allowed if roles.has("developer")
