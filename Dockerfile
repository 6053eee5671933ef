FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt .
# xgboost takes 700 MB, nearly all of it for GPUs; xgboost-cpu is the same module in 20.
RUN sed -i 's/^xgboost==/xgboost-cpu==/' requirements.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY model model
COPY static static
COPY gunicorn.conf.py model.py run.py ./
USER 65534
EXPOSE 3000
HEALTHCHECK CMD ["python", "-c", "import os, urllib.request as client; \
    client.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3000'), timeout=5)"]
CMD ["gunicorn", "run:app"]
