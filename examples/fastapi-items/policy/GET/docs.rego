# GET /docs   (swagger_ui_html)
package shop.GET.docs

import data.roles

default allowed := false

allowed if roles.has("developer")
