FROM python:3.14-slim
WORKDIR /app
COPY requirements.txt constraints.txt ./
# xgboost takes up 700 MB, nearly all of it for GPUs; xgboost-cpu is the same module in 20 MB.
# Serving needs neither pytest nor scikit-learn, which xgboost uses only if it is installed.
RUN sed -i 's/^xgboost==/xgboost-cpu==/; /^pytest==/d; /^scikit-learn==/d' requirements.txt \
    && pip install --no-cache-dir -r requirements.txt
# .dockerignore excludes all but the files that the service needs.
COPY . .
# chmod: the checked-out files may be readable only by their owner. The check imports the service
# and so writes the bytecode of everything it uses, including the standard library: the running
# service cannot write, so it would compile all of it at each start.
RUN chmod -R a+rX . && gunicorn --check-config run:app
USER 65534
EXPOSE 3000
HEALTHCHECK CMD ["python", "-c", "import http.client, os; \
    client = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT', '3000')), timeout=5); \
    client.request('GET', '/'); assert client.getresponse().status == 200"]
CMD ["gunicorn", "--access-logfile", "-", "run:app"]
