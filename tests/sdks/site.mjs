// A site on an origin of its own, and Chromium before a page of it.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { chromium } from 'playwright-core'

// Opens `address`, a path of a site that answers as `find(path)` says: `{ type, body }`, and 404 where it throws. What the page says is
// printed. The site's port is `SITE_PORT`, or any. `end` waits until standard input ends, and closes everything.
export async function open(find, address) {
  const site = createServer(async (request, response) => {
    try {
      const { type, body } = await find(request.url)
      response.setHeader('content-type', type)
      response.end(body)
    } catch {
      response.writeHead(404).end()
    }
  })
  site.listen(Number(process.env.SITE_PORT ?? 0), '127.0.0.1')
  await once(site, 'listening')
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  })
  const page = await browser.newPage()
  page.on('console', (message) => console.log('page:', message.text()))
  page.on('pageerror', (error) => console.log('page error:', String(error)))
  await page.goto(`http://127.0.0.1:${site.address().port}${address}`)
  const end = async () => {
    process.stdin.resume()
    await once(process.stdin, 'end')
    await browser.close()
    site.close()
  }
  return { page, end }
}
