// SPDX-License-Identifier: Apache-2.0
// Sends back what it gets. usage: java Echo.java PORT read|available
import java.io.*;
import java.net.*;

public class Echo {
	public static void main(String[] args) throws IOException {
		boolean asks = args[1].equals("available");
		ServerSocket listener = new ServerSocket(Integer.parseInt(args[0]));
		for (;;) {
			Socket s = listener.accept();
			new Thread(() -> {
				try (s) {
					serve(s, asks);
				} catch (IOException e) {
					// The client sees it.
				}
			}).start();
		}
	}

	static void serve(Socket s, boolean asks) throws IOException {
		InputStream in = s.getInputStream();
		OutputStream out = s.getOutputStream();
		byte[] b = new byte[1 << 16];
		for (;;) {
			int n;
			if (asks) {
				int first = in.read();
				if (first < 0) break;
				b[0] = (byte) first;
				// No more than there is, as it is told: FIONREAD.
				n = 1 + in.readNBytes(b, 1, Math.min(in.available(), b.length - 1));
			} else {
				n = in.read(b);
				if (n < 0) break;
			}
			out.write(b, 0, n);
		}
		s.shutdownOutput();
	}
}
