// A site on a port of its own, and Chromium to visit it.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { chromium } from 'playwright-core'

// Serves a site that answers as `find(path)` says: `{ type, body }`, and 404 where it throws. `open` opens a path of it as a visitor of
// its own, under an origin below `.example` if need be; what the page says is printed. `end` waits until standard input ends, and
// closes everything.
export async function start(find) {
  const site = createServer(async (request, response) => {
    try {
      const { type, body } = await find(request.url)
      response.setHeader('content-type', type)
      response.end(body)
    } catch {
      response.writeHead(404).end()
    }
  })
  site.listen(0, '127.0.0.1')
  await once(site, 'listening')
  const here = `127.0.0.1:${site.address().port}`
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-dev-shm-usage', `--host-resolver-rules=MAP *.example ${here}`],
  })
  const open = async (path, origin) => {
    const visitor = await browser.newContext()
    const page = await visitor.newPage()
    page.on('console', (message) => console.log('page:', message.text()))
    page.on('pageerror', (error) => console.log('page error:', String(error)))
    await page.goto(`${origin ?? `http://${here}`}${path}`)
    return page
  }
  const end = async () => {
    process.stdin.resume()
    await once(process.stdin, 'end')
    await browser.close()
    site.close()
  }
  return { open, end }
}
